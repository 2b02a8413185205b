//! `cargo xtask tidy`: the project's own rules, as code.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::{cargo, root};

/// Which crate of the workspace may know which. Arrows point one way: binary, adapters, engine, store and net, core.
const EDGES: [(&str, &[&str]); 12] = [
    ("crdtfs-core", &[]),
    ("crdtfs-store", &["crdtfs-core"]),
    ("crdtfs-net", &["crdtfs-core"]),
    ("crdtfs-vfs", &["crdtfs-core"]),
    ("crdtfs-control", &[]),
    ("crdtfs-engine", &["crdtfs-control", "crdtfs-core", "crdtfs-net", "crdtfs-store", "crdtfs-vfs"]),
    ("crdtfs-mount", &["crdtfs-core", "crdtfs-engine", "crdtfs-vfs"]),
    ("crdtfs-folder", &["crdtfs-core", "crdtfs-engine"]),
    ("crdtfs-testkit", &["crdtfs-core"]),
    ("crdtfs", &["crdtfs-control", "crdtfs-engine", "crdtfs-folder", "crdtfs-mount"]),
    ("crdtfs-tests", &[]),
    ("xtask", &["crdtfs-testkit"]),
];

/// What tests of any crate may use besides. (The core's own tests with it make no cycle for cargo.)
const FOR_TESTS: [&str; 1] = ["crdtfs-testkit"];

/// What the pure crates must not reach for, as it is written in code.
const IMPURE: [&str; 10] = [
    "File::open",
    "File::create",
    "fs::read",
    "fs::write",
    "TcpStream",
    "UdpSocket",
    "SystemTime::now",
    "Instant::now",
    "HashMap",
    "HashSet",
];

/// Names that say nothing of what a module owns.
const EMPTY_NAMES: [&str; 8] = ["util", "utils", "common", "helper", "helpers", "manager", "managers", "misc"];

/// The longest source file, in lines.
const MAX_LINES: usize = 1_000;

pub(crate) fn run() -> Result<()> {
    let root = root()?;
    let mut broken = edges(&metadata(&root)?);
    let mut unwraps = 0;
    let mut lines = 0;
    for path in tracked(&root)? {
        broken.extend(name(&path));
        // Pictures and the like have no lines.
        let Ok(text) = fs::read_to_string(root.join(&path)) else { continue };
        broken.extend(machine_paths(&path, &text, &root));
        if path.ends_with(".rs") {
            broken.extend(source(&path, &text));
            if !is_test(&path) {
                let code = without_tests(&text);
                unwraps += code.matches(".unwrap()").count();
                lines += code.lines().count();
            }
        }
    }
    if unwraps * 1_000 > lines {
        broken.push(format!(
            "{unwraps} unwrap() in {lines} lines outside tests: at most one in 1,000; give reasons in expect()"
        ));
    }
    if broken.is_empty() {
        println!("tidy: all is well");
        return Ok(());
    }
    for line in &broken {
        println!("tidy: {line}");
    }
    bail!("{} of the project's rules broken", broken.len())
}

fn metadata(root: &Path) -> Result<Value> {
    let output = cargo()
        .current_dir(root)
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .output()
        .context("cannot start cargo metadata")?;
    ensure!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// Arrows between crates that are not in the table.
fn edges(metadata: &Value) -> Vec<String> {
    let allowed: BTreeMap<_, _> = EDGES.into_iter().collect();
    let array = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let mut broken = Vec::new();
    for package in array(&metadata["packages"]) {
        let name = package["name"].as_str().unwrap_or_default();
        let Some(may_know) = allowed.get(name) else {
            broken.push(format!("the crate {name} is not in the table of layers (xtask/src/tidy.rs)"));
            continue;
        };
        for dependency in array(&package["dependencies"]) {
            let known = dependency["name"].as_str().unwrap_or_default();
            let of_ours = allowed.contains_key(known);
            let for_tests = dependency["kind"] == "dev" && FOR_TESTS.contains(&known);
            if of_ours && !for_tests && !may_know.contains(&known) {
                broken.push(format!("{name} must not know {known}: the arrow {name} -> {known} turns a layer round"));
            }
        }
    }
    broken
}

/// Every file that git knows, or would add.
fn tracked(root: &Path) -> Result<Vec<String>> {
    let output = Command::new("git")
        .current_dir(root)
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .output()
        .context("cannot start git")?;
    ensure!(output.status.success(), "git ls-files: {}", String::from_utf8_lossy(&output.stderr));
    let names = String::from_utf8_lossy(&output.stdout);
    Ok(names.split('\0').filter(|name| !name.is_empty()).map(str::to_owned).collect())
}

fn name(path: &str) -> Option<String> {
    let words = path.split('/').map(|word| word.strip_suffix(".rs").unwrap_or(word));
    let empty = words.into_iter().find(|word| EMPTY_NAMES.contains(word))?;
    Some(format!("{path}: `{empty}` does not say what it owns"))
}

/// Paths of the machine that this runs on.
fn machine_paths(path: &str, text: &str, root: &Path) -> Vec<String> {
    let home = std::env::home_dir().filter(|home| home.components().count() > 1);
    let here = [Some(root.to_owned()), home];
    let here: Vec<_> = here.into_iter().flatten().map(|dir| format!("{}/", dir.display())).collect();
    let tells = |line: &str| here.iter().any(|dir| line.contains(dir.as_str()));
    let lines = text.lines().enumerate().filter(|(_, line)| tells(line));
    lines.map(|(at, _)| format!("{path}:{}: a path of this machine", at + 1)).collect()
}

fn source(path: &str, text: &str) -> Vec<String> {
    let mut broken = Vec::new();
    let lines = text.lines().count();
    if lines > MAX_LINES {
        broken.push(format!("{path}: {lines} lines, at most {MAX_LINES}: split it by noun"));
    }
    // Not written as one word, so that this file keeps its own rules.
    let left_open = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("to", "do!("), concat!("unimple", "mented!(")];
    let ignored = concat!("#[", "ignore");
    for (at, line) in text.lines().enumerate() {
        if let Some(word) = left_open.iter().find(|word| line.contains(**word)) {
            broken.push(format!("{path}:{}: `{word}`: do it, or write an issue", at + 1));
        }
        if line.trim_start().starts_with(ignored) {
            broken.push(format!("{path}:{}: an ignored test", at + 1));
        }
    }
    if path.starts_with("crates/crdtfs-core/src/") && !is_test(path) {
        let code = without_tests(text);
        for word in IMPURE.into_iter().filter(|word| code.contains(word)) {
            broken.push(format!("{path}: `{word}`: the core is pure, and its order is its own"));
        }
    }
    broken
}

/// Whether a file holds tests only.
fn is_test(path: &str) -> bool {
    let stem = path.rsplit('/').next().unwrap_or(path).trim_end_matches(".rs");
    path.starts_with("tests/")
        || ["/tests/", "/benches/", "/examples/"].iter().any(|dir| path.contains(dir))
        || ["test", "tests"].contains(&stem)
        || ["_test", "_tests"].iter().any(|end| stem.ends_with(end))
}

/// A file up to its module of tests, which is its last.
fn without_tests(text: &str) -> &str {
    text.find("#[cfg(test)]\nmod ").map_or(text, |at| &text[..at])
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn arrows_that_turn_are_named() {
        let package = |name: &str, dependencies: Value| json!({"name": name, "dependencies": dependencies});
        let sound = json!({"packages": [package("crdtfs-net", json!([{"name": "crdtfs-core", "kind": null}]))]});
        assert!(edges(&sound).is_empty());
        let turned = json!({"packages": [package("crdtfs-core", json!([{"name": "crdtfs-net", "kind": null}]))]});
        assert!(edges(&turned)[0].contains("crdtfs-core -> crdtfs-net"));
        let tested = json!({"packages": [package("crdtfs-core", json!([{"name": "crdtfs-testkit", "kind": "dev"}]))]});
        assert!(edges(&tested).is_empty());
        let unknown = json!({"packages": [package("crdtfs-extra", json!([]))]});
        assert_eq!(edges(&unknown).len(), 1);
    }

    #[test]
    fn rules_for_files_find_what_they_forbid() {
        assert!(name("crates/x/src/utils.rs").is_some());
        assert!(name("crates/x/common/a.rs").is_some());
        assert!(name("crates/x/src/command.rs").is_none());
        assert_eq!(
            machine_paths("a", "ok\nsee /here/now/x\n", Path::new("/here/now")),
            ["a:2: a path of this machine"]
        );
        let open = format!("// {}: later\n", concat!("TO", "DO"));
        assert_eq!(source("a.rs", &open).len(), 1);
        assert_eq!(source("a.rs", &"x\n".repeat(MAX_LINES + 1)).len(), 1);
        assert_eq!(source("crates/crdtfs-core/src/a.rs", "use std::collections::HashMap;\n").len(), 1);
        assert!(source("crates/crdtfs-core/src/a.rs", "#[cfg(test)]\nmod tests { use HashMap; }\n").is_empty());
        assert!(source("crates/crdtfs-net/src/a.rs", "use std::collections::HashMap;\n").is_empty());
    }
}
