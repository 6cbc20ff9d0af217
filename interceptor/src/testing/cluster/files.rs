//! What a cluster has on disk before it starts, and a daemon before there is a cluster: certificates, tokens, kubeconfigs.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use super::{NODE, PORT, UPSTREAM_USER};
use crate::testing::certificates::{Authority, Issued, Validity};
use crate::testing::stage::{CLUSTER, Failure};
use crate::testing::world::{FAR4, FAR6};

/// Certificates and tokens of a cluster that may not run yet, in a folder of their own.
#[derive(Debug)]
pub struct Secrets {
    directory: PathBuf,
    upstream: String,
}

impl Secrets {
    /// Draws them, into a folder that this makes, open to root alone.
    ///
    /// # Errors
    /// What the file system says.
    pub fn draw(directory: &Path) -> Result<Self, Failure> {
        fs::create_dir_all(directory)?;
        fs::set_permissions(directory, fs::Permissions::from_mode(0o700))?;
        let (far4, far6) = (FAR4.to_string(), FAR6.to_string());
        let authority = Authority::new("the cluster's CA")?;
        fs::write(directory.join("ca.crt"), authority.pem())?;
        let names = [CLUSTER, NODE, "127.0.0.1", far4.as_str(), far6.as_str()];
        let certificates: [(&str, Issued); 5] = [
            ("server", authority.issue("kube-apiserver", &names, Validity::Now)?),
            ("accounts", authority.issue("service-accounts", &[], Validity::Now)?),
            ("kubelet", authority.issue(NODE, &names, Validity::Now)?),
            ("kubelet-client", authority.issue("kube-apiserver", &[], Validity::Now)?),
            ("upstream", authority.issue(UPSTREAM_USER, &[], Validity::Now)?),
        ];
        for (name, issued) in certificates {
            issued.write(directory, name)?;
        }
        let (admin, node, upstream) = (random()?, random()?, random()?);
        let tokens = format!(
            "{admin},admin,1,\"system:masters\"\n{node},system:node:{NODE},2,\"system:nodes\"\n{upstream},{UPSTREAM_USER},3\n"
        );
        write_secret(&directory.join("tokens.csv"), &tokens)?;
        let url = format!("https://127.0.0.1:{PORT}");
        for (name, token) in [("admin", &admin), ("node", &node)] {
            let text = kubeconfig(&url, &directory.join("ca.crt"), token);
            write_secret(&directory.join(format!("{name}.kubeconfig")), &text)?;
        }
        write_secret(&directory.join("upstream.token"), &upstream)?;
        fs::write(directory.join("audit.yaml"), AUDIT)?;
        Ok(Self { directory: directory.to_owned(), upstream })
    }

    /// The token of [`UPSTREAM_USER`], which nobody but interceptor gets.
    #[must_use]
    pub fn token(&self) -> &str {
        &self.upstream
    }

    /// The file that it lies in.
    #[must_use]
    pub fn token_file(&self) -> PathBuf {
        self.path("upstream.token")
    }

    /// Certificate and key with which [`UPSTREAM_USER`] may log in instead, in PEM.
    #[must_use]
    pub fn certificate(&self) -> (PathBuf, PathBuf) {
        (self.path("upstream.crt"), self.path("upstream.key"))
    }

    /// The certificate of the cluster's own authority, in PEM.
    #[must_use]
    pub fn authority(&self) -> PathBuf {
        self.path("ca.crt")
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }
}

/// Everything that is asked for, once: before it is answered.
const AUDIT: &str = r#"
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [ResponseStarted, ResponseComplete, Panic]
rules: [{level: Metadata}]
"#;

pub(super) fn kubeconfig(url: &str, authority: &Path, token: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: it\n\
         clusters: [{{name: it, cluster: {{server: \"{url}\", certificate-authority: \"{}\"}}}}]\n\
         users: [{{name: it, user: {{token: {token}}}}}]\n\
         contexts: [{{name: it, context: {{cluster: it, user: it}}}}]\n",
        authority.display()
    )
}

fn write_secret(path: &Path, text: &str) -> std::io::Result<()> {
    fs::write(path, text)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))
}

fn random() -> Result<String, Failure> {
    let mut random = [0u8; 16];
    getrandom::fill(&mut random).map_err(|error| error.to_string())?;
    Ok(random.iter().map(|byte| format!("{byte:02x}")).collect())
}
