//! git over HTTPS, and Java's own client, whose trust an operator gives it by hand.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use crate::tests::{Scene, said, url};

/// git, by the protocol that any web server speaks.
pub(crate) fn git_clones(scene: &Scene) {
    let (work, served, clones) = (scene.file("work"), scene.file("git/shop.git"), scene.file("clones"));
    fs::create_dir_all(&work).unwrap();
    fs::create_dir_all(&clones).unwrap();
    fs::set_permissions(&clones, fs::Permissions::from_mode(0o777)).unwrap();
    fs::write(work.join("article.txt"), "a book\n".repeat(1000)).unwrap();
    let who = ["-c", "user.name=Ada", "-c", "user.email=ada@example.org", "-c", "init.defaultBranch=main"];
    root(Command::new("git").args(who).arg("init").arg(&work));
    root(Command::new("git").args(who).arg("-C").arg(&work).args(["add", "."]));
    root(Command::new("git").args(who).arg("-C").arg(&work).args(["commit", "--message", "an article"]));
    root(Command::new("git").args(["clone", "--bare"]).arg(&work).arg(&served));
    root(Command::new("git").arg("-C").arg(&served).arg("update-server-info"));

    let mut git = Command::new("git");
    git.args(["clone", &url("/git/shop.git")]).arg(clones.join("shop")).env("HOME", &clones);
    let told = scene.run(git);
    let article = fs::read_to_string(clones.join("shop/article.txt")).unwrap_or_default();
    assert!(article.ends_with("a book\n"), "{told}\n{}", scene.stage.log());
    // What policy knows of a repository is where it is.
    let mut git = Command::new("git");
    git.args(["clone", &url("/git/secret.git")]).arg(clones.join("secret")).env("HOME", &clones);
    let told = scene.run(git);
    assert!(told.contains("403") && !scene.arrived().contains("secret.git"), "{told}");
}

/// Java looks at a store of its own, and speaks HTTP/2 where it can.
pub(crate) fn java_asks(scene: &Scene) {
    const SOURCE: &str = r#"
import java.net.URI;
import java.net.http.*;
public class Client {
    public static void main(String[] arguments) throws Exception {
        var client = HttpClient.newHttpClient();
        for (String method : new String[] { "GET", "DELETE" }) {
            var asked = HttpRequest.newBuilder(URI.create(arguments[0])).method(method, HttpRequest.BodyPublishers.noBody());
            var answer = client.send(asked.build(), HttpResponse.BodyHandlers.ofString());
            System.out.println(method + " " + answer.statusCode() + " " + answer.version() + " " + answer.body());
        }
    }
}
"#;
    let (source, store) = (scene.file("Client.java"), scene.file("trust.p12"));
    fs::write(&source, SOURCE).unwrap();
    let classes = source.parent().unwrap_or(Path::new("/"));
    root(Command::new("javac").arg("-d").arg(classes).arg(&source));
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
    root(keytool.arg("-file").arg(scene.file("ca/ca.pem")).arg("-keystore").arg(&store));
    fs::set_permissions(&store, fs::Permissions::from_mode(0o644)).unwrap();

    let mut java = Command::new("java");
    java.arg(format!("-Djavax.net.ssl.trustStore={}", store.display()))
        .arg("-Djavax.net.ssl.trustStorePassword=changeit");
    java.arg("-cp").arg(classes).args(["Client", &url("/v1/customers/7")]);
    let told = scene.run(java);
    assert!(told.contains("GET 200 HTTP_2 ") && told.contains("************1111"), "{told}\n{}", scene.stage.log());
    assert!(told.contains("DELETE 403 HTTP_2 ") && told.contains("customers-are-kept"), "{told}");
}

fn root(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", said(&output));
}
