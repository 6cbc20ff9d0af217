//! Whom agents trust, as the clients see it that everybody has: what `exec` gives them is enough for each, and none takes what a stolen
//! key of the host's authority attests to beyond the targets.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use interceptor::testing::stage::{HOST, IDP as API, Script, Stage};
use interceptor::testing::world::{FAR4, Place};
use interceptor::tls::authority::ENVIRONMENT;

use crate::tests::{LIMIT, exec, said, with_a_ca};

/// Nothing listens there: what policies deny is told before anybody is asked.
const PORT: u16 = 8443;
/// A name that no target has.
const FOREIGN: &str = "bank.example";
/// Where what shows a leaf for such a name listens, and one for the name of a target.
const OUTSIDE: u16 = 9443;
const INSIDE: u16 = 9444;

/// Each asks for the same, with nothing but what `exec` gives it, and reads the refusal of interceptor: it trusts who says that.
#[test]
fn clients_need_nothing_but_what_they_are_started_with() {
    let configuration = format!(
        "[[target]]\nname = \"api\"\nprotocol = \"http\"\nhosts = [\"{API}:{PORT}\"]\ncredential = {{ user = \"svc\" }}\ntls = {{ upstream = \"verify-full\" }}\n"
    );
    let stage = with_a_ca(&Script { configuration, ..Script::default() });
    let url = format!("https://{API}:{PORT}/v1/things");
    let go = go(&stage, "asks", GO_ASKS).to_string_lossy().into_owned();
    let node = "fetch(process.argv[1]).then(async answer => console.log(answer.status, await answer.text()), \
                error => console.log(error, error.cause))";
    let python = "import sys, urllib.request, urllib.error\n\
                  try: urllib.request.urlopen(sys.argv[1])\n\
                  except urllib.error.HTTPError as error: print(error.code, error.read().decode())";
    let clients: [(&str, Vec<&str>); 5] = [
        ("curl", vec!["curl", "-sS", "-w", "%{http_code}", &url]),
        ("git", vec!["git", "ls-remote", &url]),
        ("node", vec!["node", "-e", node, &url]),
        ("go", vec![go.as_str(), &url]),
        ("python", vec!["/usr/bin/python3", "-c", python, &url]),
    ];
    for (name, client) in clients {
        let told = said(&exec(&stage, &[], &client));
        assert!(told.contains("403"), "{name}: {told}\n{}", stage.log());
        // Without that, the same client trusts nobody who says so.
        let without =
            [&["env"][..], &ENVIRONMENT.iter().flat_map(|(name, _)| ["-u", name]).collect::<Vec<_>>()[..]].concat();
        let told = said(&exec(&stage, &[], &[&without[..], &client].concat()));
        assert!(!told.contains("403") && told.to_lowercase().contains("certificate"), "{name}: {told}");
    }
}

/// Whoever steals the key signs what he likes. These refuse it, and take what stands within the constraint.
#[test]
fn clients_refuse_what_a_stolen_key_attests_to_beyond_the_targets() {
    let stage = with_a_ca(&Script::default());
    let thief = Thief { stage: &stage };
    let _servers = [thief.serve(FOREIGN, OUTSIDE), thief.serve(HOST, INSIDE)];
    let authorities = stage.path("ca/ca.pem").to_string_lossy().into_owned();
    let go = go(&stage, "meets", GO_MEETS).to_string_lossy().into_owned();
    let java = stage.path("Meets.java").to_string_lossy().into_owned();
    fs::write(&java, JAVA_MEETS).unwrap();
    let store = thief.store();
    for (name, port, is_within) in [(FOREIGN, OUTSIDE, false), (HOST, INSIDE, true)] {
        let (place, port) = (format!("{FAR4}:{port}"), port.to_string());
        let (resolved, url, address) =
            (format!("{name}:{port}:{FAR4}"), format!("https://{name}:{port}/"), FAR4.to_string());
        let resolve = format!("http.curloptResolve={resolved}");
        let clients: [(&str, Vec<&str>, &str); 5] = [
            (
                "openssl",
                vec![
                    "openssl",
                    "s_client",
                    "-brief",
                    "-verify_return_error",
                    "-CAfile",
                    &authorities,
                    "-verify_hostname",
                    name,
                    "-servername",
                    name,
                    "-connect",
                    &place,
                ],
                "permitted subtree violation",
            ),
            (
                "curl",
                vec!["curl", "-sS", "-v", "--cacert", &authorities, "--resolve", &resolved, &url],
                "permitted subtree violation",
            ),
            ("git", vec!["git", "-c", &resolve, "ls-remote", &url], "server certificate verification failed"),
            ("go", vec![go.as_str(), &authorities, &place, name], "is not permitted by any constraint"),
            (
                "java",
                vec!["java", &store, "-Djavax.net.ssl.trustStorePassword=changeit", &java, &address, &port, name],
                "name constraints check failed",
            ),
        ];
        for (client, words, why) in clients {
            let mut command = Command::new(words[0]);
            for (name, _) in ENVIRONMENT {
                command.env_remove(name);
            }
            command.args(&words[1..]).env("GIT_SSL_CAINFO", &authorities).stdin(Stdio::null());
            let told = said(&stage.world.output(Place::Far, None, command, LIMIT).unwrap());
            let met = ["Verification: OK", "SSL certificate verify ok", "met ", "is this a git repository"];
            let is_met = met.iter().any(|met| told.contains(met));
            assert_eq!(is_met, is_within, "{client} {name}: {told}");
            assert!(is_within || told.contains(why), "{client} {name}: {told}");
        }
    }
}

/// Whoever has the key of the authority.
struct Thief<'s> {
    stage: &'s Stage,
}

/// Shows a leaf. Dropping it ends it.
struct Shown(Child);

impl Drop for Shown {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _reaped = self.0.wait();
    }
}

impl Thief<'_> {
    fn file(&self, name: &str) -> String {
        self.stage.path(name).to_string_lossy().into_owned()
    }

    /// Makes a leaf for a name, and shows it.
    fn serve(&self, name: &str, port: u16) -> Shown {
        let [key, request, leaf, names] =
            ["key", "csr", "crt", "ext"].map(|ending| self.file(&format!("stolen-{port}.{ending}")));
        fs::write(&names, format!("subjectAltName=DNS:{name}\nextendedKeyUsage=serverAuth\n")).unwrap();
        let subject = format!("/CN={name}");
        let new = ["req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj"];
        openssl(&[&new[..], &[subject.as_str(), "-keyout", &key, "-out", &request]].concat());
        // The key, and the certificate by which it signs.
        let stolen = self.file("ca/ca.key");
        let sign = ["x509", "-req", "-days", "1", "-set_serial", "77", "-in", &request, "-CA", &stolen, "-CAkey"];
        openssl(&[&sign[..], &[stolen.as_str(), "-extfile", &names, "-out", &leaf]].concat());
        let place = format!("{FAR4}:{port}");
        let mut server = Command::new("openssl");
        server.args([
            "s_server",
            "-quiet",
            "-www",
            "-cert",
            &leaf,
            "-key",
            &key,
            "-cert_chain",
            &stolen,
            "-accept",
            &place,
        ]);
        server.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let shown = Shown(self.stage.world.spawn_in(Place::Far, server).unwrap());
        for _ in 0..100 {
            let mut ask = Command::new("openssl");
            ask.args(["s_client", "-connect", &place]);
            if self.stage.world.output(Place::Far, None, ask, LIMIT).unwrap().status.success() {
                return shown;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        panic!("openssl does not listen at {place}");
    }

    /// A store of Java's that has the authority, as the word that names it.
    fn store(&self) -> String {
        let store = self.file("trust.p12");
        let mut keytool = Command::new("keytool");
        keytool.args([
            "-importcert",
            "-noprompt",
            "-alias",
            "interceptor",
            "-storetype",
            "PKCS12",
            "-storepass",
            "changeit",
        ]);
        keytool.args(["-file", &self.file("ca/ca.pem"), "-keystore", &store]);
        succeeds(&mut keytool);
        format!("-Djavax.net.ssl.trustStore={store}")
    }
}

fn openssl(arguments: &[&str]) {
    succeeds(Command::new("openssl").args(arguments));
}

fn succeeds(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", said(&output));
}

/// Built by root, as the agent has no home to build in.
fn go(stage: &Stage, name: &str, source: &str) -> PathBuf {
    let (text, program) = (stage.path(&format!("{name}.go")), stage.path(name));
    fs::write(&text, source).unwrap();
    let mut go = Command::new("go");
    go.args(["build", "-o"]).arg(&program).arg(&text).env("GO111MODULE", "off");
    go.env("GOCACHE", stage.path("go-cache")).env("CGO_ENABLED", "0");
    succeeds(&mut go);
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    program
}

const GO_ASKS: &str = r#"package main
import ("fmt"; "io"; "net/http"; "os")
func main() {
    answer, err := http.Get(os.Args[1])
    if err != nil { fmt.Println(err); os.Exit(1) }
    body, _ := io.ReadAll(answer.Body)
    fmt.Println(answer.StatusCode, string(body))
}
"#;

const GO_MEETS: &str = r#"package main
import ("crypto/tls"; "crypto/x509"; "fmt"; "os")
func main() {
    pem, _ := os.ReadFile(os.Args[1])
    roots := x509.NewCertPool()
    roots.AppendCertsFromPEM(pem)
    connection, err := tls.Dial("tcp", os.Args[2], &tls.Config{RootCAs: roots, ServerName: os.Args[3]})
    if err != nil { fmt.Println(err); os.Exit(1) }
    fmt.Println("met", connection.ConnectionState().ServerName)
}
"#;

const JAVA_MEETS: &str = r#"
import java.net.Socket;
import javax.net.ssl.*;
public class Meets {
    public static void main(String[] arguments) throws Exception {
        var factory = (SSLSocketFactory) SSLSocketFactory.getDefault();
        int port = Integer.parseInt(arguments[1]);
        try (var socket = (SSLSocket) factory.createSocket(new Socket(arguments[0], port), arguments[2], port, true)) {
            var parameters = socket.getSSLParameters();
            parameters.setEndpointIdentificationAlgorithm("HTTPS");
            socket.setSSLParameters(parameters);
            socket.startHandshake();
            System.out.println("met " + socket.getSession().getProtocol());
        } catch (SSLException refused) { System.out.println("refused " + refused); }
    }
}
"#;
