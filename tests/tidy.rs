//! Rules about the tree that no compiler checks: file lengths, who may import whom, where `unsafe` and tokio may stand.

#![expect(clippy::unwrap_used, reason = "a test")]

use std::fs;
use std::path::{Path, PathBuf};

/// Files with unsafe code. Each has its reason at the top.
const UNSAFE: [&str; 6] = [
    "journal/src/disk/buf.rs",
    "journal/src/disk/uring.rs",
    "journal/src/disk/reader.rs",
    "agent/src/priority.rs",
    "agent/src/source/ring.rs",
    "nbd/src/buffer.rs",
];

/// A crate, and the crates of ours that it may name.
const IMPORTS: [(&str, &[&str]); 8] = [
    ("journal", &[]),
    ("local", &[]),
    ("nbd", &["local"]),
    ("benches/oracle", &[]),
    ("link", &["journal"]),
    ("agent", &["journal", "link", "local", "nbd"]),
    ("receiver", &["journal", "link", "local", "nbd"]),
    ("src", &["journal", "link", "agent", "receiver", "oracle"]),
];
const OURS: [&str; 7] = ["journal", "local", "nbd", "link", "agent", "receiver", "oracle"];

/// Inside the journal: a module, and the modules it may name. `types`, `error` and `limits` are everyone's.
const JOURNAL: [(&str, &[&str]); 8] = [
    ("types", &[]),
    ("disk", &[]),
    ("codec", &[]),
    ("wire", &["codec"]),
    ("frame", &["codec"]),
    ("index", &["codec", "frame", "disk"]),
    ("log", &["codec", "frame", "disk", "index"]),
    ("store", &["codec", "frame", "disk", "index", "log"]),
];

#[test]
fn files_have_one_job() {
    let mut long: Vec<String> = Vec::new();
    for (path, text) in sources() {
        let lines = text.lines().count();
        if lines > 600 {
            long.push(format!("{}: {lines} lines", path.display()));
        }
    }
    assert!(long.is_empty(), "split by job:\n{}", long.join("\n"));
}

#[test]
fn crates_import_what_they_may() {
    let mut wrong = Vec::new();
    for (dir, allowed) in IMPORTS {
        for (path, text) in sources().into_iter().filter(|(path, _)| path.starts_with(dir) && !is_test(path)) {
            for other in OURS.iter().filter(|other| !dir.ends_with(**other) && !allowed.contains(other)) {
                let names =
                    |line: &&str| !line.trim_start().starts_with("//") && names_path(line, &format!("{other}::"));
                wrong.extend(text.lines().filter(names).map(|line| format!("{}: {}", path.display(), line.trim())));
            }
        }
    }
    assert!(wrong.is_empty(), "not allowed to import:\n{}", wrong.join("\n"));
}

#[test]
fn journal_modules_keep_their_order() {
    let mut wrong = Vec::new();
    for (module, allowed) in JOURNAL {
        let dir = format!("journal/src/{module}");
        for (path, text) in sources().into_iter().filter(|(path, _)| path.starts_with(&dir) && !is_test(path)) {
            for (other, _) in
                JOURNAL.iter().filter(|(other, _)| *other != module && *other != "types" && !allowed.contains(other))
            {
                let names =
                    |line: &&str| !line.trim_start().starts_with("//") && line.contains(&format!("crate::{other}::"));
                wrong.extend(text.lines().filter(names).map(|line| format!("{}: {}", path.display(), line.trim())));
            }
        }
    }
    assert!(wrong.is_empty(), "not allowed to import:\n{}", wrong.join("\n"));
}

#[test]
fn unsafe_stands_only_where_it_is_listed() {
    let has_unsafe = |text: &str| {
        text.lines().any(|line| {
            let code = line.split("//").next().unwrap_or("");
            code.contains("unsafe {") || code.contains("unsafe fn") || code.contains("unsafe impl")
        })
    };
    let found: Vec<PathBuf> = sources()
        .into_iter()
        .filter(|(path, text)| has_unsafe(text) && *path != Path::new("tests/tidy.rs"))
        .map(|(path, _)| path)
        .collect();
    let unlisted: Vec<_> =
        found.iter().filter(|path| !UNSAFE.iter().any(|listed| path == &Path::new(listed))).collect();
    assert!(unlisted.is_empty(), "unsafe code in {unlisted:?}");
    let idle: Vec<_> = UNSAFE.iter().filter(|listed| !found.iter().any(|path| path == Path::new(listed))).collect();
    assert!(idle.is_empty(), "listed, but without unsafe code: {idle:?}");
}

#[test]
fn the_journal_knows_no_runtime_and_no_network() {
    for word in ["tokio", "quinn", "std::net", "thread::spawn", "SystemTime", "Instant::now"] {
        let offenders: Vec<_> = sources()
            .into_iter()
            .filter(|(path, text)| path.starts_with("journal/src") && !is_test(path) && code(text).contains(word))
            .map(|(path, _)| path)
            .collect();
        assert!(offenders.is_empty(), "{word} in {offenders:?}");
    }
}

#[test]
fn nothing_is_left_to_do() {
    let words = [["TO", "DO"].concat(), ["FIX", "ME"].concat(), ["X", "XX"].concat()];
    for (path, text) in sources() {
        for word in &words {
            assert!(!text.contains(word.as_str()), "{word} in {}", path.display());
        }
    }
}

#[test]
fn no_document_holds_what_a_merge_left() {
    let is_left = |line: &str| ["<<<<<<< ", ">>>>>>> "].iter().any(|mark| line.starts_with(mark));
    for (path, text) in files("md").into_iter().chain(files("toml")) {
        assert!(!text.lines().any(is_left), "{}", path.display());
    }
}

/// Whether the line names this path from its root, not as the end of a longer name.
fn names_path(line: &str, path: &str) -> bool {
    line.match_indices(path).any(|(at, _)| !line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':'))
}

/// The text without comments.
fn code(text: &str) -> String {
    text.lines().map(|line| line.split("//").next().unwrap_or("")).collect::<Vec<_>>().join("\n")
}

fn is_test(path: &Path) -> bool {
    path.components().any(|part| part.as_os_str() == "tests") || path.to_string_lossy().ends_with("tests.rs")
}

/// Every Rust file of ours with its text, relative to the root.
fn sources() -> Vec<(PathBuf, String)> {
    let sources = files("rs");
    assert!(sources.len() > 20, "the tree was not found");
    sources
}

/// Every file of ours that ends so.
fn files(wanted: &str) -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    let mut dirs = vec![root.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() && name != "target" && !name.starts_with('.') {
                dirs.push(path);
            } else if path.extension().is_some_and(|extension| extension == wanted) {
                files.push((path.strip_prefix(root).unwrap().to_owned(), fs::read_to_string(&path).unwrap()));
            }
        }
    }
    files
}
