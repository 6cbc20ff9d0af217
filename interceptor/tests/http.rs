//! HTTP end to end: real clients, real servers (nginx, gRPC), the real kernel programs, the real daemon, TLS on both legs.
//!
//! Needs root, nginx, curl, Node, Go, and the Python clients that `cargo xtask test` installs; run with `--test-threads=1`.
//! nginx's own log proves what arrived, and what did not.

#![cfg(test)]

#[path = "http/calls.rs"]
mod calls;
#[path = "http/leases.rs"]
mod leases;
#[path = "http/others.rs"]
mod others;
#[path = "http/s3.rs"]
mod s3;
#[path = "http/socket.rs"]
mod socket;
#[path = "http/two.rs"]
mod two;

mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::{Path, PathBuf};
    use std::process::{Child, Command, Output, Stdio};
    use std::time::Duration;

    use interceptor::testing::certificates::{Authority, Validity};
    use interceptor::testing::stage::{CARD, IDP as API, Script, Stage};
    use interceptor::testing::world::{FAR4, FAR6, Place};
    use interceptor::tls::authority::{ENVIRONMENT, Trust};
    use serde_json::Value;

    /// What the target wants to see, and agents never do.
    pub(crate) const SECRET: &str = "the-real-token-of-the-target";
    pub(crate) const PORT: u16 = 8443;
    /// Where the server of gRPC listens.
    pub(crate) const RPC_PORT: u16 = 8444;
    /// Where the server of WebSockets does.
    pub(crate) const LIVE_PORT: u16 = 8445;
    /// Where the server of gRPC does whose schema is known, and that of gRPC-web.
    pub(crate) const TYPED_PORT: u16 = 8456;
    pub(crate) const WEB_PORT: u16 = 8457;
    /// What stands at paths that are masked, and nowhere else.
    const HIDDEN: &str = "ada.hidden@example.org";
    /// Rows of a long answer.
    const PEOPLE: usize = 20_000;

    const MASKS: &str = r#"
[[mask]]
tag = "pii"
json = ["api/v1/people:$[*].contact.email", "api/v1/people:$..SSN", "api/v1/events:$.email",
    "typed/shop.Orders/Place:$.order.customer.phone", "typed:$..cardNumber", "typed/shop.Orders/Chat:$.from.nickname",
    "web:$..card_number"]
"#;

    const POLICIES: &str = r#"
@id("api-reads")
permit (principal in Group::"finance", action in Action::"http:read", resource in Target::"api");

@id("api-writes")
permit (principal in Group::"finance", action in Action::"http:write", resource in Target::"api");

@id("customers-are-kept")
@reason("customers are never removed")
@remedy("mark the customer as closed")
forbid (principal, action == Action::"http:DELETE", resource == Route::"api/v1/customers/{id}");

@id("orders-in-euro")
@reason("orders are placed in EUR alone")
forbid (principal, action == Action::"http:POST", resource == Route::"api/v1/orders")
unless { context has http && context.http.fields.contains("currency=EUR") };

@id("repositories-in-clear")
permit (principal in Group::"finance", action == Action::"unmask", resource)
when { context has http && context.http.path like "/git/*" };

@id("one-repository")
forbid (principal, action in Action::"http:read", resource == Route::"api/git/{path*}")
unless { context has http && context.http.path like "/git/shop.git/*" };

@id("live")
permit (
  principal in Group::"finance",
  action in [Action::"http:GET", Action::"http:message"],
  resource == Route::"live/v1/live"
);

@id("nothing-is-dropped")
@reason("nothing is dropped")
forbid (principal, action == Action::"http:message", resource)
when { context has http && context.http.fields.contains("do=drop") };

@id("calls")
permit (
  principal in Group::"finance",
  action in [Action::"http:POST", Action::"http:opaque"],
  resource == Route::"rpc/shop.Orders/{method}"
);

@id("calls-in-clear")
permit (principal in Group::"finance", action == Action::"unmask", resource)
when {
  context has http && context.http.host like "*:8444" &&
  context.http has grpc && context.http.grpc.service == "shop.Orders"
};

@id("typed")
permit (
  principal in Group::"finance",
  action in [Action::"http:POST", Action::"http:message"],
  resource
) when { resource in Target::"typed" || resource in Target::"web" };

@id("typed-in-euro")
forbid (principal, action in [Action::"http:POST", Action::"http:message"], resource in Target::"typed")
when {
  context has http && context.http has grpc &&
  ((action == Action::"http:POST" && context.http.grpc.method == "Place") ||
   (action == Action::"http:message" && context.http.grpc.method == "Upload"))
}
unless { context has http && context.http.fields.contains("currency=EUR") };

@id("web-in-euro")
forbid (principal, action == Action::"http:POST", resource == Route::"web/shop.Orders/Place")
unless { context has http && context.http.fields.contains("currency=EUR") };

@id("typed-drops-nothing")
@reason("nothing is dropped")
forbid (principal, action == Action::"http:message", resource == Route::"typed/shop.Orders/Chat")
when { context has http && context.http.fields.contains("text=drop") };

@id("typed-is-not-cancelled")
forbid (principal, action == Action::"http:POST", resource)
when {
  (resource in Target::"typed" || resource in Target::"web") &&
  context has http && context.http has grpc && context.http.grpc.method == "Cancel"
};

@id("nothing-is-cancelled")
@reason("orders are not cancelled by agents")
forbid (principal, action == Action::"http:POST", resource == Route::"rpc/shop.Orders/Cancel");
"#;

    pub(crate) struct Scene {
        pub(crate) stage: Stage,
        nginx: Child,
    }

    impl Drop for Scene {
        fn drop(&mut self) {
            let _gone = self.nginx.kill();
            let _reaped = self.nginx.wait();
        }
    }

    impl Scene {
        fn new() -> Self {
            let files = tempfile::tempdir().unwrap().keep();
            fs::set_permissions(&files, fs::Permissions::from_mode(0o755)).unwrap();
            let authority = Authority::new("the target's CA").unwrap();
            authority.issue("api", &[API], Validity::Now).unwrap().write(&files, "nginx").unwrap();
            fs::write(files.join("upstream.pem"), authority.pem()).unwrap();
            fs::write(files.join("secret"), SECRET).unwrap();
            fs::set_permissions(files.join("secret"), fs::Permissions::from_mode(0o600)).unwrap();
            let directory = files.display();
            fs::write(files.join("shop.protoset"), crate::calls::SET).unwrap();
            fs::set_permissions(files.join("shop.protoset"), fs::Permissions::from_mode(0o644)).unwrap();
            let web = |name: &str, port: u16, routes: &str| {
                format!(
                    r#"
[[target]]
name = "{name}"
protocol = "http"
hosts = ["{API}:{port}"]
tls = {{ upstream = "verify-full", ca = "{directory}/upstream.pem" }}
credential = {{ user = "svc", password = "file:{directory}/secret" }}

[target.http]
routes = [{routes}]
"#
                )
            };
            let api =
                r#""/v1/customers/{id}", "/v1/orders", "/v1/people", "/v1/events", "/git/{path*}", "/v1/{rest*}""#;
            let methods = r#""/shop.Orders/{method}", "/shop.Orders/Place", "/shop.Orders/Chat""#;
            let schema = format!("grpc = {{ descriptors = [\"{directory}/shop.protoset\"] }}\n");
            let targets = [
                web("api", PORT, api),
                web("live", LIVE_PORT, r#""/v1/live""#),
                web("rpc", RPC_PORT, r#""/shop.Orders/{method}", "/shop.Orders/Cancel""#),
                format!("{}{schema}", web("typed", TYPED_PORT, methods)),
                format!("{}{schema}", web("web", WEB_PORT, methods)),
            ];
            let more = [crate::leases::targets(&files), crate::s3::target(&files)].concat();
            let configuration = format!("[ca]\ndir = \"{directory}/ca\"\n{}{more}{MASKS}", targets.concat());
            let init = format!(
                "[ca]\ndir = \"{directory}/ca\"\n[[target]]\nname = \"api\"\nprotocol = \"http\"\nhosts = [\"{API}\", \"orders-db.internal\"]\ncredential = {{ user = \"svc\" }}\n"
            );
            fs::write(files.join("init.toml"), init).unwrap();
            let made = Command::new(env!("CARGO_BIN_EXE_interceptor"))
                .args(["ca", "init", "--user", "root", "--config"])
                .arg(files.join("init.toml"))
                .output()
                .unwrap();
            assert!(made.status.success(), "{}", said(&made));
            let policies = [POLICIES, crate::leases::POLICIES, crate::s3::POLICIES].concat();
            let script = Script { policies, configuration, ..Script::default() };
            let stage = Stage::set(Path::new(env!("CARGO_BIN_EXE_interceptor")), &script)
                .unwrap_or_else(|error| panic!("no stage: {error}"));
            let nginx = serve(&stage, &files);
            let scene = Self { stage, nginx };
            // It is ready when it has written its process id.
            for _ in 0..100 {
                if files.join("nginx.pid").exists() {
                    break;
                }
                std::thread::sleep(Duration::from_millis(50));
            }
            fs::write(scene.stage.path("files"), files.display().to_string()).unwrap();
            scene
        }

        pub(crate) fn file(&self, name: &str) -> PathBuf {
            Path::new(&fs::read_to_string(self.stage.path("files")).unwrap()).join(name)
        }

        /// Runs a client as the agent, that looks for certificate authorities where it always does.
        pub(crate) fn run(&self, mut command: Command) -> String {
            for (name, trust) in ENVIRONMENT {
                let file = if *trust == Trust::Bundle { "ca/bundle.pem" } else { "ca/ca.pem" };
                command.env(name, self.file(file));
            }
            let mut bounded = Command::new("timeout");
            bounded.args(["--kill-after=5", "120"]).arg(command.get_program()).args(command.get_args());
            for (name, value) in command.get_envs() {
                bounded.env(name, value.unwrap_or_default());
            }
            said(&self.stage.run_agent(bounded).unwrap())
        }

        fn curl(&self, arguments: &[&str]) -> String {
            self.curl_as("--http1.1", arguments)
        }

        pub(crate) fn curl_as(&self, version: &str, arguments: &[&str]) -> String {
            let mut curl = Command::new("curl");
            curl.args(["-sS", "-i", version]).args(arguments);
            self.run(curl)
        }

        /// What reached the target.
        pub(crate) fn arrived(&self) -> String {
            fs::read_to_string(self.file("access.log")).unwrap_or_default()
        }

        pub(crate) fn operate(&self, arguments: &[&str]) -> String {
            let output = self.stage.operate(arguments).unwrap();
            assert!(output.status.success(), "{arguments:?}: {}", said(&output));
            said(&output)
        }
    }

    pub(crate) fn said(output: &Output) -> String {
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
    }

    pub(crate) fn url(path: &str) -> String {
        format!("https://{API}:{PORT}{path}")
    }

    fn serve(stage: &Stage, files: &Path) -> Child {
        let directory = files.display();
        let text = format!(
            r#"
daemon off; master_process off; pid {directory}/nginx.pid; error_log {directory}/error.log;
events {{ }}
http {{
    log_format all '$server_protocol $request_method $request_uri auth="$http_authorization" cookie="$http_cookie" body="$request_body" sent="$sent_http_content_encoding"';
    access_log {directory}/access.log all;
    client_body_temp_path {directory}/body; proxy_temp_path {directory}/proxy; fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi; scgi_temp_path {directory}/scgi;
    server {{
        listen {FAR4}:{PORT} ssl http2; listen [{FAR6}]:{PORT} ssl http2;
        ssl_certificate {directory}/nginx.crt; ssl_certificate_key {directory}/nginx.key;
        default_type application/json;
        add_header Alt-Svc 'h3=":443"' always;
        add_header Set-Cookie 'session=as-good-as-the-token; Secure' always;
        if ($http_authorization != "Bearer {SECRET}") {{ return 401 '{{"error":"who are you"}}'; }}
        location /v1/customers/ {{ return 200 '{{"id":7,"name":"Ada","card":"{CARD}"}}'; }}
        location /git/ {{ default_type application/octet-stream; alias {directory}/git/; }}
        location /v1/orders {{ return 201 '{{"ok":true}}'; }}
        gzip_types application/json text/event-stream; gzip_min_length 1;
        location /v1/people {{ gzip on; alias {directory}/people; }}
        location /v1/events {{ gzip on; default_type text/event-stream; alias {directory}/events; }}
        location /v1/file {{ default_type application/octet-stream; alias {directory}/file; }}
        location / {{ return 404 '{{"error":"nothing here"}}'; }}
    }}
}}
"#
        );
        fs::write(files.join("nginx.conf"), text).unwrap();
        fs::write(files.join("people"), people()).unwrap();
        let event = |n: usize| format!("id: {n}\ndata: {{\"n\": {n}, \"email\": \"{HIDDEN}\"}}\n\n");
        fs::write(files.join("events"), (0..50).map(event).collect::<String>()).unwrap();
        fs::write(files.join("file"), "x".repeat(3 << 20)).unwrap();
        let mut nginx = Command::new("/usr/sbin/nginx");
        nginx.arg("-c").arg(files.join("nginx.conf")).arg("-e").arg(files.join("error.log"));
        nginx.stdout(Stdio::null()).stderr(Stdio::null());
        stage.world.spawn_in(Place::Far, nginx).unwrap()
    }

    /// A long answer, with what is masked in it in several spellings.
    fn people() -> String {
        let person = |n: usize| {
            let name = ["ssn", "SSN", "\\u0073sn", "\\u017fSn"][n % 4];
            format!(
                "{{\"id\":{n},\"contact\":{{\"email\":\"{HIDDEN}\"}},\"more\":[{{\"{name}\":[7{n:08},\"{HIDDEN}\"]}}]}}"
            )
        };
        format!("[{}]", (0..PEOPLE).map(person).collect::<Vec<_>>().join(","))
    }

    fn compressed_answers_are_masked_by_path_as_they_come(scene: &Scene) {
        for coding in
            [&["--compressed"][..], &["-H", "Accept-Encoding: gzip"], &["-H", "Accept-Encoding: br, compress"], &[]]
        {
            let told = scene.curl(&[coding, &[&url("/v1/people")]].concat());
            assert!(told.starts_with("HTTP/1.1 200"), "{told:.500}");
            assert!(!told.to_ascii_lowercase().contains("content-encoding"), "{told:.500}");
            let body: Value = serde_json::from_str(told.split("\r\n\r\n").nth(1).unwrap()).unwrap();
            let rows = body.as_array().unwrap();
            assert_eq!(rows.len(), PEOPLE);
            for (n, row) in rows.iter().enumerate() {
                let below = row["more"][0].as_object().unwrap().values().next().unwrap();
                assert_eq!((&row["id"], &row["contact"]["email"]), (&n.into(), &"[masked:pii]".into()));
                assert_eq!(below, &serde_json::json!([null, "[masked:pii]"]));
            }
        }
        let told = scene.curl(&["-N", "--compressed", &url("/v1/events")]);
        assert_eq!((told.matches("\"email\": \"[masked:pii]\"").count(), told.contains(HIDDEN)), (50, false), "{told}");
        let sent: Vec<String> =
            scene.arrived().lines().filter(|line| line.contains("/v1/people")).map(str::to_owned).collect();
        let gzip = sent.iter().filter(|line| line.ends_with("sent=\"gzip\"")).count();
        assert_eq!((sent.len(), gzip), (4, 2), "{sent:?}");
        // Clients that ask for what they can undo, and read it as they always do.
        let mut requests = Command::new(installed().join("web/bin/python"));
        let code = format!(
            "import requests\nr = requests.get({:?})\nprint(r.status_code, len(r.json()), set(p['contact']['email'] for p in r.json()))",
            url("/v1/people")
        );
        requests.args(["-c", &code]);
        assert_eq!(scene.run(requests).trim(), format!("200 {PEOPLE} {{'[masked:pii]'}}"));
        let events = scene.operate(&["recordings", "export", "--format", "jsonl"]);
        assert!(!events.contains(HIDDEN) && events.contains("$[*].contact.email"));
    }

    /// One scene for all, as it takes seconds to set.
    #[test]
    fn agents_reach_web_services_as_policy_has_it() {
        let scene = Scene::new();
        what_is_permitted_passes_masked_and_with_our_credential(&scene);
        compressed_answers_are_masked_by_path_as_they_come(&scene);
        what_is_denied_is_told_natively_and_never_arrives(&scene);
        bodies_decide(&scene);
        names_that_do_not_agree_are_refused(&scene);
        smuggled_requests_never_arrive(&scene);
        for (name, client) in clients(&scene) {
            let told = scene.run(client);
            assert!(told.contains("read 200 ************1111"), "{name}: {told}\n{}", scene.stage.log());
            assert!(told.contains("denied 403 customers-are-kept"), "{name}: {told}");
        }
        assert!(!scene.arrived().contains("DELETE"), "{}", scene.arrived());
        super::others::git_clones(&scene);
        super::others::java_asks(&scene);
        super::two::requests_share_a_connection(&scene);
        super::two::calls_of_grpc_are_judged(&scene);
        super::calls::messages_of_calls_decide(&scene);
        super::calls::echoes_are_found_where_nothing_is_known(&scene);
        super::calls::calls_of_grpc_web_are_judged(&scene);
        super::socket::messages_are_judged(&scene);
        super::leases::sessions_end_with_what_logs_in(&scene);
        super::s3::buckets_are_signed_for(&scene);
        recordings_hold_pairs_without_secrets(&scene);
        a_request_is_explained_without_asking_the_target(&scene);
        a_dead_target_is_a_native_error(scene);
    }

    fn a_request_is_explained_without_asking_the_target(scene: &Scene) {
        let before = scene.arrived();
        let agent = ["--agent", "billing-bot", "--group", "finance", "--target", "api"];
        let asked = [&["policy", "explain"], &agent[..], &["--statement"]].concat();
        let told = scene.operate(&[&asked[..], &["GET /v1/customers/7"]].concat());
        assert!(told.starts_with("PERMIT") && told.contains("Route::\"api/v1/customers/{id}\""), "{told}");
        let output = scene.stage.operate(&[&asked[..], &["DELETE /v1/customers/7"]].concat()).unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert!(said(&output).contains("mark the customer as closed"), "{}", said(&output));
        assert_eq!(scene.arrived(), before);
        // Calls, with their messages as people write them.
        let agent = ["--agent", "billing-bot", "--group", "finance", "--target", "typed"];
        let explain = |first: &str, message: &str| {
            let statement = format!("{first}\ncontent-type: application/grpc\n\n{message}");
            let asked = [&["policy", "explain"], &agent[..], &["--statement", &statement]].concat();
            said(&scene.stage.operate(&asked).unwrap())
        };
        for (line, message, expected) in [
            ("POST /shop.Orders/Place", "{\"currency\": \"EUR\", \"customer\": {\"cardNumber\": \"4111\"}}", "PERMIT"),
            ("POST /shop.Orders/Place", "{\"currency\": \"USD\"}", "typed-in-euro"),
            ("POST /shop.Orders/Upload", "", "PERMIT"),
            ("MESSAGE /shop.Orders/Upload", "{\"currency\": \"EUR\"}", "PERMIT"),
            ("MESSAGE /shop.Orders/Upload", "{\"currency\": \"USD\"}", "typed-in-euro"),
            ("POST /shop.Orders/Place", "{\"nothing\": 1}", "it is no message of /shop.Orders/Place"),
            ("MESSAGE /shop.Orders/Place", "{\"currency\": \"EUR\"}", "takes one message"),
        ] {
            let told = explain(line, message);
            assert!(told.contains(expected), "{line} {message}: {told}");
        }
    }

    fn a_dead_target_is_a_native_error(mut scene: Scene) {
        scene.nginx.kill().unwrap();
        scene.nginx.wait().unwrap();
        let told = scene.curl(&[&url("/v1/customers/7")]);
        assert!(told.starts_with("HTTP/1.1 502") && told.contains("application/problem+json"), "{told}");
        let document: Value = serde_json::from_str(told.split("\r\n\r\n").nth(1).unwrap()).unwrap();
        assert!(document["detail"].as_str().unwrap().contains("refused"), "{told}");
        let told = scene.curl_as("--http2", &[&url("/v1/customers/7")]);
        assert!(told.starts_with("HTTP/2 502") && told.contains("refused"), "{told}");
    }

    fn what_is_permitted_passes_masked_and_with_our_credential(scene: &Scene) {
        let theirs = ["-H", "Authorization: Bearer placeholder", "-H", "Cookie: session=of-somebody-else"];
        let told = scene.curl(&[&theirs[..], &[&url("/v1/customers/7")]].concat());
        assert!(told.starts_with("HTTP/1.1 200") && told.contains("************1111"), "{told}\n{}", scene.stage.log());
        // Neither the log-in that the target makes of ours, nor one of somebody else's.
        assert!(!told.contains("as-good-as") && scene.arrived().contains("cookie=\"-\""), "{told}{}", scene.arrived());
        assert!(!told.contains(CARD) && !told.to_ascii_lowercase().contains("alt-svc"), "{told}");
        let arrived = scene.arrived();
        assert!(arrived.contains(SECRET) && !arrived.contains("placeholder"), "{arrived}");
        // Many requests on one connection, and an answer that is none of nginx's business to explain.
        let several = [url("/v1/customers/1"), url("/v1/customers/2"), url("/nowhere")];
        let told = scene.curl(&several.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!((told.matches("HTTP/1.1 200").count(), told.matches("HTTP/1.1 404").count()), (2, 1), "{told}");
        // What has to be masked and cannot be looked into does not pass.
        let told = scene.curl(&[&url("/v1/file")]);
        assert!(told.starts_with("HTTP/1.1 502") && told.contains("cannot be looked into"), "{told}");
    }

    fn what_is_denied_is_told_natively_and_never_arrives(scene: &Scene) {
        let told = scene.curl(&["-X", "DELETE", &url("/v1/customers/7")]);
        assert!(told.starts_with("HTTP/1.1 403") && told.contains("application/problem+json"), "{told}");
        let document: Value = serde_json::from_str(told.split("\r\n\r\n").nth(1).unwrap()).unwrap();
        assert_eq!(document["rule"], "customers-are-kept");
        assert_eq!(document["remedy"], "mark the customer as closed");
        let told = scene.curl(&["-X", "DELETE", "--path-as-is", &url("/v1/x/../customers/7")]);
        assert!(told.starts_with("HTTP/1.1 403"), "{told}");
        let told = scene.curl(&["-X", "POST", "-H", "X-HTTP-Method-Override: DELETE", &url("/v1/customers/7")]);
        assert!(told.starts_with("HTTP/1.1 403") && told.contains("asks for another method"), "{told}");
        assert!(!scene.arrived().contains("DELETE") && !scene.arrived().contains("POST"), "{}", scene.arrived());
    }

    fn bodies_decide(scene: &Scene) {
        let post = |body: &str| scene.curl(&["-H", "Content-Type: application/json", "-d", body, &url("/v1/orders")]);
        assert!(post(r#"{"currency":"EUR","amount":3}"#).starts_with("HTTP/1.1 201"));
        assert!(post(r#"{"currency":"USD","note":"currency=EUR"}"#).contains("orders-in-euro"));
        assert!(post(r#"{"currency":"USD","currency":"EUR"}"#).starts_with("HTTP/1.1 403"));
        let form = scene.curl(&["-d", "currency=EUR&currency=USD", &url("/v1/orders")]);
        assert!(form.starts_with("HTTP/1.1 403") && form.contains("stands more than once"), "{form}");
        let arrived = scene.arrived();
        assert!(!arrived.contains("USD") && arrived.matches("POST /v1/orders").count() == 1, "{arrived}");
    }

    fn names_that_do_not_agree_are_refused(scene: &Scene) {
        let before = scene.arrived();
        let told = scene.curl(&["-H", "Host: other.internal", &url("/v1/customers/7")]);
        assert!(told.starts_with("HTTP/1.1 403") && told.contains("is no name of api"), "{told}");
        // The same address, under a name that the host CA may attest to, of another target.
        let resolve = format!("orders-db.internal:{PORT}:{FAR4}");
        let told = scene.curl(&["--resolve", &resolve, &format!("https://orders-db.internal:{PORT}/v1/customers/7")]);
        assert!(told.contains("unrecognized name"), "{told}");
        let events = scene.operate(&["recordings", "export", "--format", "jsonl"]);
        assert!(events.contains("asks for `orders-db.internal` (SNI)"), "{events}");
        assert_eq!(scene.arrived(), before);
    }

    /// Raw bytes inside of TLS, by Python's own ssl.
    fn smuggled_requests_never_arrive(scene: &Scene) {
        let before = scene.arrived();
        let code = format!(
            r#"
import socket, ssl
def send(*lines):
    context = ssl.create_default_context()
    s = context.wrap_socket(socket.create_connection(("{API}", {PORT})), server_hostname="{API}")
    s.settimeout(10)
    s.sendall("\r\n".join(lines).encode("latin-1"))
    told = b""
    try:
        while part := s.recv(65536): told += part
    except OSError as error: told += str(error).encode()
    return told.decode("latin-1")
inner = ["GET /v1/customers/666 HTTP/1.1", "Host: {API}:{PORT}", "", ""]
for name, lines in {{
    "CL.TE": ["POST /v1/orders HTTP/1.1", "Host: {API}:{PORT}", "Content-Length: 60", "Transfer-Encoding: chunked", "", "0", ""],
    "TE.TE": ["POST /v1/orders HTTP/1.1", "Host: {API}:{PORT}", "Transfer-Encoding: chunked", "Transfer-Encoding: x", "", "0", ""],
    "CL.CL": ["POST /v1/orders HTTP/1.1", "Host: {API}:{PORT}", "Content-Length: 0", "Content-Length: 60", ""],
    "fold": ["POST /v1/orders HTTP/1.1", "Host: {API}:{PORT}", "X: y", " Content-Length: 60", ""],
    "space": ["POST /v1/orders HTTP/1.1", "Host: {API}:{PORT}", "Content-Length : 60", ""],
    "hosts": ["GET /v1/orders HTTP/1.1", "Host: {API}:{PORT}", "Host: other", ""],
    "absolute": ["GET https://other/v1/orders HTTP/1.1", "Host: {API}:{PORT}", "Connection: close", ""],
    "upgrade": ["GET /v1/orders HTTP/1.1", "Host: {API}:{PORT}", "Connection: Upgrade, HTTP2-Settings, close", "Upgrade: h2c", "HTTP2-Settings: x", ""],
}}.items():
    told = send(*lines, *inner) if name not in ("absolute", "upgrade") else send(*lines, "")
    print(name, told.split("\r\n")[0], told.count("HTTP/1.1 "))
"#
        );
        let mut python = Command::new("/usr/bin/python3");
        python.args(["-c", &code]);
        let told = scene.run(python);
        assert_eq!(told.lines().count(), 8, "{told}");
        for line in told.lines() {
            let refused = line.contains("HTTP/1.1 400") || line.contains("HTTP/1.1 403");
            assert!(refused && line.ends_with(" 1"), "{told}");
        }
        assert_eq!(scene.arrived(), before, "{told}");
    }

    /// Each reads a customer, tries to remove one, and prints what came of it. None is told of any certificate authority.
    fn clients(scene: &Scene) -> Vec<(&'static str, Command)> {
        let (customer, web) = (url("/v1/customers/7"), installed().join("web/bin/python"));
        let python = |code: &str| {
            let mut command = Command::new(&web);
            command.args(["-c", &code.replace("URL", &format!("{customer:?}"))]);
            command
        };
        let requests = "import requests\ns = requests.Session()\nr = s.get(URL); print('read', r.status_code, r.json()['card'])\n\
                        r = s.delete(URL); print('denied', r.status_code, r.json()['rule'])";
        let httpx = "import httpx, ssl\nwith httpx.Client(verify=ssl.create_default_context()) as s:\n    \
                     r = s.get(URL); print('read', r.status_code, r.json()['card'])\n    \
                     r = s.delete(URL); print('denied', r.status_code, r.json()['rule'])";
        let aiohttp = "import aiohttp, asyncio\nasync def main():\n    async with aiohttp.ClientSession() as s:\n        \
                       r = await s.get(URL); print('read', r.status, (await r.json())['card'])\n        \
                       r = await s.delete(URL); print('denied', r.status, (await r.json(content_type=None))['rule'])\n\
                       asyncio.run(main())";
        let mut node = Command::new("node");
        let fetch = "(async () => { let r = await fetch(URL); console.log('read', r.status, (await r.json()).card);\
                     r = await fetch(URL, { method: 'DELETE' }); console.log('denied', r.status, (await r.json()).rule); })()";
        node.args(["-e", &fetch.replace("URL", &format!("{customer:?}"))]);
        let mut go = Command::new(go_client(scene));
        go.arg(&customer);
        vec![
            ("requests", python(requests)),
            ("httpx", python(httpx)),
            ("aiohttp", python(aiohttp)),
            ("node", node),
            ("go", go),
        ]
    }

    /// Built by root, as the agent has no home to build in.
    fn go_client(scene: &Scene) -> PathBuf {
        const SOURCE: &str = r#"package main
import ("encoding/json"; "fmt"; "net/http"; "os")
func do(method string) (int, map[string]any) {
    request, _ := http.NewRequest(method, os.Args[1], nil)
    response, err := http.DefaultClient.Do(request)
    if err != nil { fmt.Println(err); os.Exit(1) }
    defer response.Body.Close()
    var document map[string]any
    json.NewDecoder(response.Body).Decode(&document)
    return response.StatusCode, document
}
func main() {
    status, document := do("GET"); fmt.Println("read", status, document["card"])
    status, document = do("DELETE"); fmt.Println("denied", status, document["rule"])
}
"#;
        let (source, program) = (scene.file("client.go"), scene.file("client"));
        fs::write(&source, SOURCE).unwrap();
        let mut go = Command::new("go");
        go.args(["build", "-o"]).arg(&program).arg(&source).env("GO111MODULE", "off");
        go.env("GOCACHE", scene.file("go-cache")).env("CGO_ENABLED", "0");
        let built = go.output().unwrap();
        assert!(built.status.success(), "{}", said(&built));
        program
    }

    fn recordings_hold_pairs_without_secrets(scene: &Scene) {
        let events = scene.operate(&["recordings", "export", "--format", "jsonl"]);
        for absent in [SECRET, CARD, "placeholder"] {
            assert!(!events.contains(absent), "{absent} is on record");
        }
        assert!(events.contains("http:DELETE") && events.contains("customers-are-kept"));
        scene.operate(&["recordings", "verify"]);
        let listed: Value = serde_json::from_str(&scene.operate(&["--json", "recordings", "list"])).unwrap();
        let sessions = listed.as_array().unwrap();
        let ids = sessions.iter().filter(|one| one["target"] == "api").filter_map(|one| one["id"].as_str());
        let replayed: Vec<String> = ids.map(|id| scene.operate(&["recordings", "replay", id, "--no-wait"])).collect();
        assert!(
            replayed.iter().any(|text| text.contains("GET /v1/customers/7") && text.contains("************1111")),
            "{replayed:#?}"
        );
    }

    pub(crate) fn installed() -> PathBuf {
        let default = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/clients");
        std::env::var_os("INTERCEPTOR_CLIENTS").map_or_else(default, PathBuf::from)
    }
}
