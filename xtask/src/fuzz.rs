//! `cargo xtask fuzz`: builds the fuzz targets with whatever compiler is there, and runs each for a while.
//!
//! cargo-fuzz is installed into `target/tools` where it is missing. A stable compiler does: `RUSTC_BOOTSTRAP` gives it the
//! instrumentation that only nightlies admit to. Corpora grow in `interceptor/fuzz/corpus` and begin with the repository's
//! own test data and with what earlier runs have left in `interceptor/fuzz/seeds`; what crashes a target is kept in
//! `interceptor/fuzz/artifacts`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};

use crate::run::{cargo, output, root, run as execute, say};

const CARGO_FUZZ: &str = "0.13.2";
/// Seconds that one input may take, by the clock on the wall of a busy machine; and megabytes.
const TIMEOUT: u32 = 60;
const MEMORY: u32 = 4096;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Run only this target
    target: Option<String>,
    /// How long each target runs
    #[arg(long, default_value_t = 10)]
    seconds: u32,
    /// Keep what was found: the smallest corpus that covers as much, packed into `interceptor/fuzz/seeds`
    #[arg(long)]
    keep: bool,
}

#[expect(clippy::print_stderr, reason = "the summary is for the person at the terminal")]
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let mut targets = targets()?;
    if let Some(wanted) = &arguments.target {
        let known = targets.join(", ");
        targets.retain(|target| target == wanted);
        ensure!(!targets.is_empty(), "no fuzz target is named {wanted}; there are {known}");
    }
    let binaries = build(arguments.target.as_deref())?;
    let mut rows = Vec::new();
    for target in &targets {
        say(&format!("fuzzing {target} for {} s", arguments.seconds));
        seed(target)?;
        rows.push(fuzz(target, &binaries, arguments.seconds)?);
        if arguments.keep {
            keep(target, &binaries)?;
        }
    }
    eprintln!("\n{:<20} {:>12} {:>8} {:>10} {:>9}  outcome", "target", "runs", "runs/s", "corpus", "coverage");
    for row in &rows {
        eprintln!(
            "{:<20} {:>12} {:>8} {:>10} {:>9}  {}",
            row.target, row.runs, row.speed, row.corpus, row.coverage, row.outcome
        );
    }
    if rows.iter().any(|row| row.crashed) {
        bail!("a target crashed; `interceptor/fuzz/artifacts` has the input, and its log is in `target/fuzz`");
    }
    Ok(())
}

fn folder() -> PathBuf {
    root().join("interceptor/fuzz")
}

/// Every file of `fuzz_targets` is a target.
fn targets() -> Result<Vec<String>> {
    let mut names: Vec<String> = fs::read_dir(folder().join("fuzz_targets"))?
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.strip_suffix(".rs").map(str::to_owned))
        .collect();
    names.sort();
    Ok(names)
}

/// Builds the targets, or one, and says where they are.
fn build(target: Option<&str>) -> Result<PathBuf> {
    let tools = root().join("target/tools/bin");
    let tool = tools.join("cargo-fuzz");
    if !tool.exists() {
        say(&format!("installing cargo-fuzz {CARGO_FUZZ} into target/tools"));
        let mut install = cargo();
        install.args(["install", "cargo-fuzz", "--version", CARGO_FUZZ, "--locked", "--root"]);
        execute(install.arg(root().join("target/tools")).arg("--target-dir").arg(root().join("target/tools/build")))?;
    }
    // The same versions as in the product.
    fs::copy(root().join("Cargo.lock"), folder().join("Cargo.lock"))?;
    let host = output(Command::new("rustc").arg("-vV"))?;
    let host = host.lines().find_map(|line| line.strip_prefix("host: ")).context("rustc does not name its host")?;
    let sanitizer = if has_sanitizer(host)? { "address" } else { "none" };
    let built = root().join("target/fuzz");
    say(&format!("building the fuzz targets (sanitizer: {sanitizer}; the first time takes many minutes)"));
    let mut command = Command::new(tool);
    command.args(["fuzz", "build", "--sanitizer", sanitizer, "--fuzz-dir"]).arg(folder());
    command.arg("--target-dir").arg(&built).args(target).env("RUSTC_BOOTSTRAP", "1");
    execute(&mut command)?;
    Ok(built.join(host).join("release"))
}

/// Whether the compiler comes with the address sanitizer's runtime, and with the right to use it.
fn has_sanitizer(host: &str) -> Result<bool> {
    let library = output(Command::new("rustc").args(["--print", "target-libdir", "--target", host]))?;
    let entries = fs::read_dir(library.trim()).into_iter().flatten().flatten();
    Ok(entries.filter_map(|entry| entry.file_name().into_string().ok()).any(|name| name.ends_with("_rt.asan.a")))
}

/// How a run went.
#[derive(Default)]
struct Row {
    target: String,
    runs: String,
    speed: String,
    corpus: String,
    coverage: String,
    outcome: String,
    crashed: bool,
}

fn fuzz(target: &str, binaries: &Path, seconds: u32) -> Result<Row> {
    let log = root().join("target/fuzz").join(format!("{target}.log"));
    let artifacts = folder().join("artifacts").join(target);
    fs::create_dir_all(&artifacts)?;
    let status = Command::new(binaries.join(target))
        .arg(corpus(target))
        .arg(format!("-artifact_prefix={}/", artifacts.display()))
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-timeout={TIMEOUT}"))
        .arg(format!("-rss_limit_mb={MEMORY}"))
        // Leaks are not looked for: that hangs where a process may not be traced.
        .arg("-detect_leaks=0")
        .env("ASAN_OPTIONS", "detect_leaks=0")
        // Scripts are interesting only when they are long.
        .arg("-len_control=10")
        .arg("-print_final_stats=1")
        .current_dir(folder())
        .stdin(Stdio::null())
        .stderr(fs::File::create(&log)?)
        .status()
        .with_context(|| format!("cannot run {target}"))?;
    let said = String::from_utf8_lossy(&fs::read(&log)?).into_owned();
    let mut row = summary(&said);
    target.clone_into(&mut row.target);
    row.crashed = !status.success();
    row.outcome = match said.lines().find_map(|line| line.split_once("Test unit written to ")) {
        Some((_, artifact)) => format!("crashed: {artifact}"),
        None if row.crashed => format!("ended with {status}"),
        None => "whole".to_owned(),
    };
    Ok(row)
}

/// Reads libFuzzer's figures: the last status line, and the final statistics.
fn summary(said: &str) -> Row {
    let mut row = Row::default();
    for line in said.lines() {
        let mut words = line.split_whitespace();
        while let Some(word) = words.next() {
            let slot = match word {
                "cov:" => &mut row.coverage,
                "corp:" => &mut row.corpus,
                "exec/s:" | "stat::average_exec_per_sec:" => &mut row.speed,
                "stat::number_of_executed_units:" => &mut row.runs,
                _ => continue,
            };
            *slot = words.next().unwrap_or_default().to_owned();
        }
    }
    row
}

fn corpus(target: &str) -> PathBuf {
    folder().join("corpus").join(target)
}

/// What earlier runs have found.
fn pack(target: &str) -> PathBuf {
    folder().join("seeds").join(format!("{target}.tar.gz"))
}

/// Reduces the corpus to what covers as much, and packs it for those who come after.
fn keep(target: &str, binaries: &Path) -> Result<()> {
    let least = root().join("target/fuzz/least").join(target);
    if least.exists() {
        fs::remove_dir_all(&least)?;
    }
    fs::create_dir_all(&least)?;
    fs::create_dir_all(folder().join("seeds"))?;
    let mut merge = Command::new(binaries.join(target));
    merge.args(["-merge=1", "-detect_leaks=0"]).arg(&least).arg(corpus(target)).env("ASAN_OPTIONS", "detect_leaks=0");
    execute(&mut merge)?;
    execute(
        Command::new("tar")
            .args(["--sort=name", "--mtime=@0", "--owner=0", "--group=0", "-czf"])
            .arg(pack(target))
            .arg("-C")
            .arg(least)
            .arg("."),
    )
}

/// Begins a corpus with what earlier runs have found, and with what the repository's tests know.
fn seed(target: &str) -> Result<()> {
    let corpus = corpus(target);
    fs::create_dir_all(&corpus)?;
    if pack(target).exists() {
        execute(Command::new("tar").arg("-xzf").arg(pack(target)).arg("-C").arg(&corpus))?;
    }
    let seeds = match target {
        "postgres_analysis" => statements()?,
        "config" => blocks("README.md", "```toml\n")?,
        "kubernetes_request" => CLUSTER.iter().map(|request| request.as_bytes().to_vec()).collect(),
        "http_codec" => REQUESTS.iter().map(|request| request.to_vec()).collect(),
        "http_redact" => SECRETS.iter().map(|body| body.as_bytes().to_vec()).collect(),
        "http_route" => PATHS.iter().map(|path| path.as_bytes().to_vec()).collect(),
        "kubernetes_proto" => objects()?,
        "mcp_message" => CALLS.iter().map(|call| call.to_vec()).collect(),
        "http_rewrite" => BODIES.iter().map(|body| body.to_vec()).collect(),
        "http_grpc" => ORDERS.iter().map(|order| order.to_vec()).collect(),
        "postgres_codec" => MESSAGES.iter().map(|message| message.to_vec()).collect(),
        "postgres_startup" => PACKETS.iter().map(|packet| packet.to_vec()).collect(),
        "mask_rows" | "mask_copy" => VALUES.iter().map(|value| value.to_vec()).collect(),
        "token" => vec![CLAIMS.as_bytes().to_vec(), KEYS.as_bytes().to_vec()],
        "approval" => vec![REQUEST.as_bytes().to_vec()],
        // These draw a script from any bytes.
        _ => Vec::new(),
    };
    for (number, seed) in seeds.iter().enumerate() {
        fs::write(corpus.join(format!("seed-{number}")), seed)?;
    }
    Ok(())
}

/// The statements of the analysis's own tests.
fn statements() -> Result<Vec<Vec<u8>>> {
    let data = root().join("interceptor/src/protocol/postgres/testdata");
    let text = fs::read_to_string(data.join("effects.txt"))? + &fs::read_to_string(data.join("evasions.txt"))?;
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with(['#', '>', '=']));
    Ok(lines.map(|line| line.as_bytes().to_vec()).collect())
}

/// The objects of the reader's own tests, with their envelopes and without.
fn objects() -> Result<Vec<Vec<u8>>> {
    let text = fs::read_to_string(root().join("interceptor/src/protocol/kubernetes/proto/golden.txt"))?;
    let lines: Vec<&str> = text.lines().collect();
    let digits = |two: &[u8]| u8::from_str_radix(std::str::from_utf8(two).unwrap_or_default(), 16).unwrap_or_default();
    let encoded = lines.chunks(3).filter_map(|three| three.get(1));
    let whole: Vec<Vec<u8>> = encoded.map(|line| line.as_bytes().chunks(2).map(digits).collect()).collect();
    let raw = PARTS.iter().map(|part| part.to_vec());
    Ok(raw.chain(whole).collect())
}

/// The blocks of a document that open with these words.
fn blocks(document: &str, opening: &str) -> Result<Vec<Vec<u8>>> {
    let text = fs::read_to_string(root().join(document))?;
    let blocks = text.split(opening).skip(1).filter_map(|rest| rest.split("```").next());
    Ok(blocks.map(|block| block.as_bytes().to_vec()).collect())
}

const MESSAGES: &[&[u8]] = &[
    b"Q\0\0\0\x0dselect 1\0",
    b"P\0\0\0\x14a\0select $1\0\0\x01\0\0\0\x17",
    b"B\0\0\0\x17p\0a\0\0\x01\0\x01\0\x01\0\0\0\x01v\0\x01\0\0",
    b"E\0\0\0\x0ap\0\0\0\0\0C\0\0\0\x07Sa\0D\0\0\0\x07Pp\0S\0\0\0\x04",
    b"T\0\0\0\x1a\0\x01c\0\0\0\0\x01\0\x01\0\0\0\x19\xff\xff\xff\xff\xff\xff\0\0D\0\0\0\x0b\0\x01\0\0\0\x01vZ\0\0\0\x05I",
    b"E\0\0\0\x1aSERROR\0C42601\0Mno\0\0\0S\0\0\0\x08a\0b\0K\0\0\0\x0c\0\0\0\x01\0\0\0\x02",
];
const REQUESTS: &[&[u8]] = &[
    b"POST /v1/a%20b?x=1 HTTP/1.1\r\nHost: h:80\r\nContent-Length: 2\r\nX-A: b\r\n\r\n{}",
    b"GET / HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n4\r\nWiki\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nSet-Cookie: a=b\r\n\r\nhi",
    b"4\r\nWiki\r\n5\r\npedia\r\n0\r\nX-Trailer: y\r\n\r\n",
];
const SECRETS: &[&str] = &[
    r#"{"a":{"b":["x",1.50,null,{"c":"d"}]},"token":"s\"3c","e":-12.5e3}"#,
    r#"{"env":[{"name":"db-token","value":"s3c"},{"value":["x",{"y":"z"}],"Key":"token"},{"name":"home","value":"/"}]}"#,
    r#"[{"type":"token","Value":7},{"parameterkey":"my\u002dtoken","ParameterValue":"x"}]"#,
    "\u{feff}{\"token\":\"x\"}\n\u{1e}{\"a\":1}\n{no\n{\"token\":[[\"y\"]]}",
    r#"{"token":"x"#,
];
const PATHS: &[&str] = &[
    "/a/B?x=1&y=%20+z",
    "/A/b/c/",
    "/a%20b/c%2Ed/%C3%BC",
    "/c.json",
    "/admin./",
    "/a/b/c/d?a[]=1&a[]=2",
    "/ADMIN%3Fx",
    "/100%25",
];
/// Which kind; an object of it without its envelope.
const PARTS: &[&[u8]] = &[
    b"\x00\x0a\x05\x0a\x03web\x12\x20\x12\x1e\x0a\x03web\x12\x05nginx\x3a\x10\x0a\x09API_TOKEN\x12\x03s3c",
    b"\x02\x0a\x05\x0a\x03web\x12\x08\x0a\x01p\x12\x03s3c\x1a\x06Opaque",
    b"\x01\x0a\x12\x0a\x03web\x62\x0b\x0a\x04note\x12\x03s3c\x12\x02\x08\x03",
];
const ORDERS: &[&[u8]] = &[
    b"\x07\x0a\x03EUR\x12\x0a\x0a\x03Ada\x12\x03411\x1a\x06\x0a\x04book\x22\x03\x01\x02\x03\x2a\x06\x0a\x01a\x12\x01b\x30\x01",
    b"\x00\x5a\x2a\x0a\x21type.googleapis.com/shop.Customer\x12\x05\x0a\x03Ada\x72\x06\x08\x03\x12\x02\x20\x07",
    b"\x03\x0a\x04text\x12\x05\x0a\x03Ada",
    b"\x03\0\0\0\0\x03abc\x80\0\0\0\0AAAA",
];
const CLUSTER: &[&str] = &[
    "GET /api/v1/namespaces/shop/pods?watch=1&fieldSelector=metadata.name%3Dweb",
    "DELETE /apis/apps/v1/namespaces/shop/deployments/web?dryRun=All",
    "POST /api/v1/namespaces/shop/pods/web/exec?command=sh&command=-c&stdin=true&container=app",
    "PATCH /apis/apps/v1/namespaces/shop/deployments/web\ncontent-type: application/json-patch+json\n\n[{\"op\":\"replace\",\"path\":\"/spec/replicas\",\"value\":0}]",
    "PATCH /apis/apps/v1/namespaces/shop/deployments/web\ncontent-type: application/merge-patch+json\n\n{\"spec\":{\"template\":{\"spec\":{\"hostNetwork\":true}}}}",
    "POST /api/v1/namespaces/shop/pods\ncontent-type: application/json\nimpersonate-user: a\n\n{\"spec\":{\"containers\":[{\"image\":\"a\",\"securityContext\":{\"capabilities\":{\"add\":[\"SYS_ADMIN\"]}}}]}}",
    "GET /openapi/v2",
];
/// Which plan, kind and coding; where it is cut; the body.
const BODIES: &[&[u8]] = &[
    b"\x00\x05{\"a\":\"s\",\"b\":[{\"c\":-1.5e3,\"\\u0061\":[true,null]}]}",
    b"\x01\x03{\"A\":{\"x\":{\"b\":\"a longer text\"}}}",
    b"\x05\x09[\"4111 1111 1111 1111\",4111111111111111]\n{\"ada@example.org\":1}\n",
    b"\x06\x09: hi\r\nid: 1\ndata: {\"a\":\ndata: 1}\n\ndata: [DONE]\n\n",
    b"\x0b\x09a 4111-1111\n1111-1111 b\n-----BEGIN PRIVATE KEY-----\nMIIE\n-----END PRIVATE KEY-----\n",
    b"\x0e\x02<a>&#52;111111111111111</a>",
    b"\x0f\x02\x1f\x8b\x08\0\0\0\0\0\0\x03\xab\x56\x4a\x54\xb2\x52\x2a\x56\xaa\x05\0\xc9\x2d\x0b\x9d\x09\0\0\0",
];
const CALLS: &[&[u8]] = &[
    br#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"get","arguments":{"a":[1.50,"x",null]},"_meta":{"progressToken":7}}}"#,
    br#"[{"jsonrpc":"2.0","method":"notifications/initialized"},{"id":"a","jsonrpc":"2.0","result":{"a":{}}}]"#,
];
const PACKETS: &[&[u8]] = &[
    b"\0\0\0\x08\x04\xd2\x16\x2f",
    b"\0\0\0\x10\x04\xd2\x16\x2e\0\0\0\x01\0\0\0\x02",
    b"\0\0\0\x29\0\x03\0\0user\0u\0database\0d\0options\0-c a=b\0\0",
];
const VALUES: &[&[u8]] = &[
    b"\x02\0\x01\0\0\0\x104111111111111111",
    b"\x00\0\x02\0\0\0\x12{\"a\":\"b@example.org\"}\xff\xff\xff\xff",
    b"\x01\x08a\tb@example.org\n\\N\t4111 1111 1111 1111\n\\.\n",
];
const CLAIMS: &str = r#"{"alg":"EdDSA","kid":"k","typ":"JWT"}
{"iss":"https://idp.example","aud":["a"],"sub":"svc","exp":1700000600,"nbf":1700000000,"iat":1700000000,"groups":["g"],"jti":"1"}"#;
const KEYS: &str = r#"{"keys":[{"kid":"a","kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo","alg":"EdDSA","use":"sig"}]}"#;
const REQUEST: &str = r#"{"id":"00112233445566ff","state":{"state":"approved","approver":{"uid":0,"name":"root"},"at":1,"reason":null},"digest":"ab","opened_at":1,"expires_at":2,"session":"00000000000000000000000000000001","identity":"a","groups":[],"facts":{"pid":1,"uid":2,"gid":3,"cgroup":"/a","unit":null,"exe":null,"exe_sha256":null,"ancestry":[]},"target":"t","statement":"s","parameters":[],"actions":[],"approvers":["dba"],"rules":[],"reason":"r","estimated_rows":null,"note":null,"recent":[]}"#;
