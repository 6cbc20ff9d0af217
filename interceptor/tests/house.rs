//! Holds the source against the layer table of `ARCHITECTURE.md`, and against the house's habits.
//!
//! Reads every `crate::module` path of the non-test source. Does not see what macros of other crates generate.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Module, and the modules it may import. What is absent may be imported by nobody below.
const LAYERS: &[(&str, &[&str])] = &[
    ("clock", &[]),
    ("secret", &[]),
    ("telemetry", &["clock"]),
    ("wire", &[]),
    ("tls", &["wire", "secret", "clock"]),
    ("turn", &[]),
    ("capture", ROW_1),
    ("launch", &["identity", "capture"]),
    ("identity", &["capture", "clock", "secret", "telemetry", "tls", "wire"]),
    ("policy", &["identity", "clock", "secret", "telemetry", "tls", "wire"]),
    ("mask", ROW_4),
    ("approval", ROW_4),
    ("record", ROW_4),
    ("credential", ROW_4),
    ("protocol", &["policy", "mask", "clock", "secret", "telemetry", "tls", "turn", "wire"]),
    (
        "session",
        &[
            "protocol",
            "mask",
            "approval",
            "record",
            "credential",
            "policy",
            "identity",
            "capture",
            "clock",
            "secret",
            "telemetry",
            "tls",
            "wire",
        ],
    ),
];
const ROW_1: &[&str] = &["clock", "secret", "telemetry", "tls", "turn", "wire"];
const ROW_4: &[&str] = &["policy", "identity", "clock", "secret", "telemetry", "tls", "turn", "wire"];
/// The program itself may import everything.
const TOP: &[&str] = &["admin", "app", "cli", "config", "testing", "main", "lib"];

const LINE_LIMIT: usize = 800;
const BANNED_NAMES: &[&str] = &["util", "utils", "common", "helper", "helpers", "misc", "types"];

#[test]
fn imports_go_down_the_layers_only() {
    let allowed: BTreeMap<&str, BTreeSet<&str>> =
        LAYERS.iter().map(|(module, imports)| (*module, imports.iter().copied().collect())).collect();
    let mut wrong = Vec::new();
    for file in sources() {
        let module = module_of(&file);
        if TOP.contains(&module.as_str()) {
            continue;
        }
        let Some(imports) = allowed.get(module.as_str()) else {
            wrong.push(format!("{}: module {module} has no place in the layer table", file.display()));
            continue;
        };
        for (line, imported) in imported_modules(&file) {
            if imported != module && !imports.contains(imported.as_str()) {
                wrong.push(format!("{}:{line}: {module} imports {imported}", file.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "imports against the layers:\n{}", wrong.join("\n"));
}

#[test]
fn every_file_says_what_it_is_and_stays_small() {
    let mut wrong = Vec::new();
    for file in sources().into_iter().chain(test_sources()) {
        let text = fs::read_to_string(&file).unwrap();
        if !text.starts_with("//!") {
            wrong.push(format!("{}: does not open with //!", file.display()));
        }
        let lines = text.lines().count();
        if lines > LINE_LIMIT && !is_test(&file) {
            wrong.push(format!("{}: {lines} lines, the limit is {LINE_LIMIT}", file.display()));
        }
        let stem = file.file_stem().unwrap().to_string_lossy().into_owned();
        let folder = file.parent().unwrap().file_name().unwrap().to_string_lossy().into_owned();
        if BANNED_NAMES.contains(&stem.as_str()) || (stem == "mod" && BANNED_NAMES.contains(&folder.as_str())) {
            wrong.push(format!("{}: a name that says nothing", file.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_protocol_has_a_fuzz_target_real_clients_and_a_primer() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for registration in interceptor::protocol::PROTOCOLS {
        let name = registration.name;
        let clients = root.join(format!("tests/{name}.rs"));
        assert!(clients.exists(), "{name} has no test file with real clients, tests/{name}.rs");
        let targets = fs::read_dir(root.join("fuzz/fuzz_targets")).expect("fuzz targets");
        let fuzzed = targets.flatten().any(|entry| entry.file_name().to_string_lossy().starts_with(name));
        assert!(fuzzed, "{name} has no fuzz target");
        let primer = fs::read_to_string(root.join(format!("src/protocol/{name}/mod.rs"))).unwrap();
        let lines = primer.lines().take_while(|line| line.starts_with("//!")).count();
        assert!(lines >= 15, "{name}'s mod.rs opens with {lines} lines; a primer of the protocol needs more");
        assert!(primer.contains("https://"), "{name}'s primer links to no specification");
    }
}

#[test]
fn unsafe_stands_behind_its_fence_only() {
    let fenced = ["capture/", "testing/", "identity/", "launch/sys.rs", "clock/synchronised.rs"];
    for file in sources() {
        let text = fs::read_to_string(&file).unwrap();
        let inside = file.strip_prefix(source_root()).unwrap().to_string_lossy().into_owned();
        if text.contains("expect(unsafe_code") || text.contains("allow(unsafe_code") {
            assert!(fenced.iter().any(|fence| inside.starts_with(fence)), "unsafe outside its fence: {inside}");
        }
    }
}

fn source_root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn sources() -> Vec<PathBuf> {
    let mut found = Vec::new();
    walk(&source_root(), &mut found);
    assert!(found.len() > 20, "the source was not found");
    found
}

fn test_sources() -> Vec<PathBuf> {
    let mut found = Vec::new();
    walk(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests"), &mut found);
    walk(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../xtask/src"), &mut found);
    walk(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../interceptor-ebpf/src"), &mut found);
    found
}

fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            walk(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

fn is_test(file: &Path) -> bool {
    let path = file.to_string_lossy();
    path.contains("/tests/") || path.ends_with("/tests.rs") || path.ends_with("_tests.rs")
}

fn module_of(file: &Path) -> String {
    let inside = file.strip_prefix(source_root()).unwrap();
    let first = inside.components().next().unwrap().as_os_str().to_string_lossy().into_owned();
    first.trim_end_matches(".rs").to_owned()
}

/// `crate::NAME` outside of comments, and outside of what follows `#[cfg(test)]`.
fn imported_modules(file: &Path) -> Vec<(usize, String)> {
    let text = fs::read_to_string(file).unwrap();
    if is_test(file) {
        return Vec::new();
    }
    let mut found = Vec::new();
    for (index, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("#[cfg(test)]") {
            break;
        }
        let code = line.split("//").next().unwrap_or_default();
        for part in code.split("crate::").skip(1) {
            if let Some(list) = part.strip_prefix('{') {
                let names = list.split(['}', ',']).map(|name| name.split("::").next().unwrap_or_default().trim());
                found.extend(names.filter(|name| !name.is_empty()).map(|name| (index + 1, name.to_owned())));
            } else {
                let name: String = part.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                found.push((index + 1, name));
            }
        }
    }
    found
}
