//! A store of files that verifies signatures of AWS (moto's), and boto3 before it with keys that are good for nothing.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use interceptor::testing::stage::IDP as API;
use interceptor::testing::world::Place;
use serde_json::{Value, json};

use crate::tests::{Scene, installed};
use crate::two::Server;

const PORT: u16 = 8448;

pub(crate) const POLICIES: &str = r#"
@id("files")
permit (
  principal in Group::"finance",
  action in [Action::"http:read", Action::"http:write", Action::"http:opaque"],
  resource in Target::"files"
);

@id("files-in-clear")
permit (principal in Group::"finance", action == Action::"unmask", resource)
when { context has http && context.http.path like "/shop-files*" };

@id("files-are-kept")
forbid (principal, action == Action::"http:DELETE", resource == Route::"files/{bucket}/{key*}");
"#;

pub(crate) fn target(files: &Path) -> String {
    let directory = files.display();
    format!(
        r#"
[[target]]
name = "files"
protocol = "http"
hosts = ["{API}:{PORT}"]
tls = {{ upstream = "verify-full", ca = "{directory}/upstream.pem" }}
credential = {{ user = "see-the-keys", password = "exec:/bin/cat {directory}/keys" }}

[target.http]
routes = ["/{{bucket}}", "/{{bucket}}/{{key*}}"]
log_in = {{ sigv4 = {{ region = "eu-central-1", service = "s3" }} }}
"#
    )
}

/// The store, and keys for it: some that stay, and some that are temporary.
const SERVER: &str = r#"
import boto3, json, os, sys, threading, time
os.environ.update(INITIAL_NO_AUTH_ACTION_COUNT="6", S3_IGNORE_SUBDOMAIN_BUCKETNAME="true")
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server
port, key, chain = sys.argv[1:]
server = make_server("::", int(port), DomainDispatcherApplication(create_backend_app), threaded=True, ssl_context=(chain, key))
threading.Thread(target=server.serve_forever, daemon=True).start()
def client(name, keys):
    return boto3.client(name, endpoint_url="https://[::1]:" + port, verify=False, region_name="eu-central-1",
        aws_access_key_id=keys["AccessKeyId"], aws_secret_access_key=keys["SecretAccessKey"])
iam = client("iam", {"AccessKeyId": "nobody", "SecretAccessKey": "nothing"})
everything = json.dumps({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]})
iam.create_user(UserName="svc")
iam.put_user_policy(UserName="svc", PolicyName="all", PolicyDocument=everything)
keys = iam.create_access_key(UserName="svc")["AccessKey"]
arn = iam.create_role(RoleName="files", AssumeRolePolicyDocument="{}")["Role"]["Arn"]
iam.put_role_policy(RoleName="files", PolicyName="all", PolicyDocument=everything)
passing = client("sts", keys).assume_role(RoleArn=arn, RoleSessionName="files")["Credentials"]
client("s3", keys).create_bucket(Bucket="shop-files", CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
told = [{name: one[name] for name in ("AccessKeyId", "SecretAccessKey", "SessionToken") if name in one} for one in (keys, passing)]
print(json.dumps(told), flush=True); threading.Event().wait()
"#;

/// What agents do all day, with whatever keys they have.
const CLIENT: &str = r#"
import boto3, io, sys
from boto3.s3.transfer import TransferConfig
url, what = sys.argv[1:]
s3 = boto3.client("s3", endpoint_url=url)
def refused(work):
    try: return work()
    except Exception as error: return error.response["ResponseMetadata"]["HTTPStatusCode"]
if what == "presign":
    print(s3.generate_presigned_url("get_object", Params={"Bucket": "shop-files", "Key": "a b/\u00e9+(1).txt"}))
elif what == "get":
    print(refused(lambda: s3.get_object(Bucket="shop-files", Key="a b/\u00e9+(1).txt")["Body"].read()))
else:
    s3.put_object(Bucket="shop-files", Key="a b/\u00e9+(1).txt", Body=b"a letter", Metadata={"by": "agent"})
    got = s3.get_object(Bucket="shop-files", Key="a b/\u00e9+(1).txt")
    print("got", got["Body"].read(), got["Metadata"])
    long = bytes(range(256)) * (45 << 10)
    s3.upload_fileobj(io.BytesIO(long), "shop-files", "long", Config=TransferConfig(multipart_threshold=5 << 20, multipart_chunksize=5 << 20))
    print("long", s3.get_object(Bucket="shop-files", Key="long")["Body"].read() == long, s3.head_object(Bucket="shop-files", Key="long")["ETag"])
    print("listed", [(one["Key"], one["Size"]) for one in s3.list_objects_v2(Bucket="shop-files", Prefix="")["Contents"]])
    print("deleted", refused(lambda: s3.delete_object(Bucket="shop-files", Key="long")))
"#;

pub(crate) fn buckets_are_signed_for(scene: &Scene) {
    let mut server = python(SERVER);
    server.arg(PORT.to_string()).arg(scene.file("nginx.key")).arg(scene.file("nginx.crt"));
    server.stdout(Stdio::piped()).stderr(Stdio::null());
    let mut server = Server(scene.stage.world.spawn_in(Place::Far, server).unwrap());
    let mut lines = BufReader::new(server.0.stdout.take().unwrap()).lines();
    let keys: Vec<Value> = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
    assert!(keys[0].get("SessionToken").is_none() && keys[1].get("SessionToken").is_some());
    fs::write(scene.file("aws"), "[default]\nregion = eu-central-1\ns3 =\n  addressing_style = path\n").unwrap();

    for keys in &keys {
        log_in_with(scene, keys);
        let told = client(scene, "work");
        for expected in [
            "got b'a letter' {'by': 'agent'}",
            "long True \"",
            "listed [('a b/\u{e9}+(1).txt', 8), ('long', 11796480)]",
            "deleted 403",
        ] {
            assert!(told.contains(expected), "{expected}: {told}\n{}", scene.stage.log());
        }
    }
    // The store looks at each part of what is shown to it.
    for (which, name) in [(0, "SecretAccessKey"), (1, "SecretAccessKey"), (1, "SessionToken"), (1, "AccessKeyId")] {
        let mut wrong = keys[which].clone();
        wrong[name] = "AnotherThanItShouldBe".into();
        log_in_with(scene, &wrong);
        let told = client(scene, "get");
        assert!(["400", "403"].contains(&told.trim()), "{name}: {told}");
    }
    log_in_with(scene, &keys[1]);
    assert_eq!(client(scene, "get").trim(), "b'a letter'");
    what_an_agent_signs_is_good_for_nothing(scene);

    let events = scene.operate(&["recordings", "export", "--format", "jsonl"]);
    for secret in keys.iter().flat_map(|keys| [&keys["SecretAccessKey"], &keys["SessionToken"]]) {
        assert!(secret.as_str().is_none_or(|secret| !events.contains(secret)), "a key is on record");
    }
    drop(server);
}

/// An address that is signed with a placeholder leads nowhere but here, where it is a request as any other.
fn what_an_agent_signs_is_good_for_nothing(scene: &Scene) {
    let address = client(scene, "presign");
    let address = address.trim();
    assert!(address.contains("X-Amz-Signature=") && address.contains("OFTHEAGENT"), "{address}");
    let mut curl = Command::new("curl");
    curl.args(["-sS", "--max-time", "20", "-w", "%{http_code}", "--cacert"])
        .arg(scene.file("upstream.pem"))
        .arg(address);
    curl.stdout(Stdio::piped());
    let direct = scene.stage.world.spawn_in(Place::Far, curl).unwrap().wait_with_output().unwrap();
    // moto fails where it should refuse.
    let direct = String::from_utf8_lossy(&direct.stdout);
    assert!(
        ["400", "403", "500"].iter().any(|code| direct.ends_with(code)) && !direct.contains("a letter"),
        "{direct}"
    );
    let told = scene.curl_as("--http1.1", &[address]);
    assert!(told.starts_with("HTTP/1.1 200") && told.ends_with("a letter"), "{told}");
    let told = scene.curl_as("--http1.1", &["-X", "DELETE", address]);
    assert!(told.starts_with("HTTP/1.1 403") && told.contains("files-are-kept"), "{told}");
}

/// From the next session on.
fn log_in_with(scene: &Scene, keys: &Value) {
    let mut keys = keys.clone();
    keys["Version"] = json!(1);
    fs::write(scene.file("keys"), keys.to_string()).unwrap();
}

fn client(scene: &Scene, what: &str) -> String {
    let mut client = python(CLIENT);
    client.args([&format!("https://{API}:{PORT}"), what]);
    client.env("AWS_ACCESS_KEY_ID", "OFTHEAGENT").env("AWS_SECRET_ACCESS_KEY", "good-for-nothing");
    client
        .env("AWS_CONFIG_FILE", scene.file("aws"))
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .env("PYTHONIOENCODING", "utf-8");
    scene.run(client)
}

fn python(code: &str) -> Command {
    let mut python = Command::new(installed().join("s3/bin/python"));
    python.args(["-c", code]);
    python
}
