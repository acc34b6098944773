//! The command line without a process to ask: help, usage, names, times, config, housekeeping.

use crate::call::{backspool, call_at, command};

fn verbs() -> Vec<String> {
    let help = backspool(["--help"]).stdout;
    let list = help.split("Commands:\n").nth(1).unwrap().split("\n\n").next().unwrap();
    let verbs: Vec<String> = list.lines().map(|line| line.split_whitespace().next().unwrap().to_owned()).collect();
    assert!(verbs.iter().any(|verb| verb == "restore"), "{help}");
    verbs.into_iter().filter(|verb| verb != "help").collect()
}

#[test]
fn every_verb_has_help_with_an_example_and_json() {
    for verb in verbs() {
        let call = backspool([verb.as_str(), "--help"]);
        assert_eq!((call.exit, call.stderr.as_str()), (0, ""), "{verb}");
        let (_, example) = call.stdout.split_once("Example").unwrap_or_else(|| panic!("{verb} has no example"));
        assert!(example.contains(&format!("  backspool {verb}")), "{verb}: {example}");
        assert!(call.stdout.contains("--json"), "{verb}");
    }
}

#[test]
fn examples_can_be_typed() {
    for verb in verbs() {
        let help = backspool([verb.as_str(), "--help"]).stdout;
        let examples = help.split_once("Example").unwrap().1;
        for line in examples.lines().filter(|line| line.starts_with("  backspool ")) {
            let line = line.trim().split(['>', '|']).next().unwrap();
            // Whatever the example does, it is not refused as a command line: --help at its end is reached.
            let script = format!("{} --help", line.replacen("backspool", env!("CARGO_BIN_EXE_backspool"), 1));
            let shell = std::process::Command::new("sh").arg("-c").arg(&script).output().unwrap();
            assert!(shell.status.success(), "{line}: {}", String::from_utf8_lossy(&shell.stderr));
        }
    }
}

#[test]
fn a_verb_that_is_not_built_does_not_exist() {
    for verb in ["forget", "pause", "resume", "bench"] {
        let call = backspool([verb]);
        assert!(call.exit == 2 && call.stderr.contains("unrecognized subcommand"), "{verb}: {}", call.stderr);
    }
}

#[test]
fn usage_errors_end_with_2() {
    for line in [
        "",
        "frobnicate",
        "status --frobnicate",
        "status --warn 5s",
        "status --check --warn soon",
        "points",
        "points db --limit 0",
        "points db --limit many",
        "restore db --to /tmp/x",
        "restore db --at latest",
        "rollback db",
        "rollback db --at latest --undo",
        "rollback db --undo --nearest",
        "mark db",
        "mark db before --lock forever",
        "invite web-1 --ttl 0s",
        "completions tcl",
        "explain E9999",
        "mark db before --dry-run",
        "invite web-1 --dry-run",
    ] {
        let args: Vec<&str> = line.split_whitespace().collect();
        let call = backspool(&args);
        assert_eq!((call.exit, call.stdout.as_str()), (2, ""), "{line}: {}", call.stderr);
        assert!(call.stderr.starts_with("error[E02") && call.stderr.contains("\n  try: "), "{line}: {}", call.stderr);
        let error = backspool([&["--json"], args.as_slice()].concat()).error();
        assert_eq!((error["type"].as_str(), error["exit"].as_u64()), (Some("error"), Some(2)), "{line}");
    }
}

#[test]
fn bad_names_end_with_2_before_anything_is_asked() {
    for args in [
        ["status", "../etc"].as_slice(),
        &["points", "Db"],
        &["mark", "db", "a b"],
        &["mark", "db/data", "m"],
        &["invite", ""],
        &["verify", "-x"],
        &["rollback", "db/data", "--at", "latest", "--yes"],
        &["restore", "db/", "--at", "latest", "--to", "x"],
        &["restore", "db/a/b", "--at", "latest", "--to", "x"],
    ] {
        let call = backspool(args);
        assert_eq!((call.exit, call.stdout.as_str()), (2, ""), "{args:?}: {}", call.stderr);
    }
    assert!(backspool(["points", "Db"]).stderr.contains("error[E0208]: a group cannot be called \"Db\""));
}

#[test]
fn bad_times_end_with_2_before_anything_is_asked() {
    for args in [
        ["points", "db", "--since", "yesterday"].as_slice(),
        &["points", "db", "--until", "2026-13-01 09:15"],
        &["restore", "db", "--to", "x", "--at", "+5m"],
        &["restore", "db", "--to", "x", "--at", "seq:0"],
        &["rollback", "db", "--yes", "--at", "mark:A B"],
    ] {
        let call = backspool(args);
        assert_eq!((call.exit, call.stdout.as_str()), (2, ""), "{args:?}");
        assert!(call.stderr.starts_with("error[E0207]: cannot read "), "{args:?}: {}", call.stderr);
        assert!(call.stderr.contains("@1763630000.25"), "the forms are shown: {}", call.stderr);
    }
}

#[test]
fn an_unreachable_socket_ends_with_16_and_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let stale = dir.path().join("stale");
    drop(std::os::unix::net::UnixListener::bind(&stale).unwrap());
    for (socket, why) in [(dir.path().join("none"), "no such socket"), (stale, "nobody listens")] {
        for line in [
            ["status"].as_slice(),
            &["points", "db"],
            &["mark", "db", "m"],
            &["invite", "web-1"],
            &["verify", "db"],
            &["rollback", "db", "--at", "latest", "--yes"],
            &["restore", "db", "--at", "latest", "--to", "x"],
            &["restore", "db", "--at", "latest", "--to", "-"],
        ] {
            let call = call_at(&socket, line);
            assert_eq!((call.exit, call.stdout.as_str()), (16, ""), "{line:?}");
            assert!(call.stderr.contains(why) && call.stderr.contains("--socket"), "{line:?}: {}", call.stderr);
            let error = call_at(&socket, &[&["--json"], line].concat()).error();
            assert_eq!((error["code"].as_str(), error["exit"].as_u64()), (Some("E1602"), Some(16)), "{line:?}");
        }
    }
}

#[test]
fn rollback_without_a_terminal_wants_a_yes() {
    let call = backspool(["rollback", "db", "--at", "latest", "--socket", "/nowhere"]);
    assert_eq!(call.exit, 2);
    assert!(call.stderr.contains("error[E0205]") && call.stderr.contains("--yes"), "{}", call.stderr);
}

#[test]
fn an_unknown_config_key_is_shown_with_line_and_suggestion() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("b.toml");
    std::fs::write(&file, "[agent]\nstate = '/s'\n\n[receiver]\nstor = '/srv/backspool'\n").unwrap();
    let path = file.to_str().unwrap();
    let call = backspool(["status", "--config", path]);
    assert_eq!(call.exit, 2);
    assert_eq!(call.stderr, format!("error[E0204]: {path} line 5: unknown key `stor`\n  try: `store`\n"));
    // What is in the contract and does nothing yet is unknown as well.
    std::fs::write(&file, "[receiver]\nstore = '/s'\nhttp = '127.0.0.1:7441'\n").unwrap();
    assert!(backspool(["status", "--config", path]).stderr.contains("line 3: unknown key `http`"));
}

#[test]
fn the_config_names_the_sockets() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("b.toml");
    std::fs::write(&file, "[agent]\nstate = '/no/state'\n[receiver]\nstore = '/no/store'\n").unwrap();
    let said = |line: &str| {
        let config = ["--config", file.to_str().unwrap()];
        backspool(config.into_iter().chain(line.split(' '))).stderr
    };
    let names = |line: &str, sockets: &[&str]| {
        let said = said(line);
        for socket in ["/no/store/control.sock", "/no/state/agent.sock", "/other/agent.sock"] {
            assert_eq!(said.contains(socket), sockets.contains(&socket), "{line}: {said}");
        }
    };
    names("points db", &["/no/store/control.sock"]);
    names("mark db m", &["/no/state/agent.sock"]);
    names("mark db m --state /other", &["/other/agent.sock"]);
    names("status", &["/no/store/control.sock", "/no/state/agent.sock"]);
    names("status --state /other", &["/other/agent.sock"]);
    let call = backspool(["status", "--config", "/no/such.toml"]);
    assert_eq!(call.exit, 2);
    assert!(call.stderr.contains("error[E0204]: cannot read /no/such.toml"), "{}", call.stderr);
}

#[test]
fn housekeeping_makes_scripts_and_pages() {
    let script = backspool(["completions", "bash"]);
    assert_eq!(script.exit, 0);
    let check = std::process::Command::new("bash").arg("-n").arg("-c").arg(&script.stdout).status().unwrap();
    assert!(check.success());
    let document = backspool(["completions", "bash", "--json"]).document();
    assert_eq!((document["schema"].as_u64(), document["script"].as_str()), (Some(1), Some(script.stdout.as_str())));

    let dir = tempfile::tempdir().unwrap();
    let pages = dir.path().join("new/man1");
    let document = backspool(["man", pages.to_str().unwrap(), "--json"]).document();
    for verb in verbs() {
        let page = pages.join(format!("backspool-{verb}.1"));
        assert!(document["files"].as_array().unwrap().iter().any(|file| file.as_str() == page.to_str()), "{verb}");
        assert!(std::fs::read_to_string(&page).unwrap().contains(&format!("backspool {verb}")), "{verb}");
    }
    assert_eq!(backspool(["man", "/dev/null/x"]).exit, 1);
}

#[test]
fn a_code_is_explained() {
    let call = backspool(["explain", "e1301"]);
    assert_eq!(call.exit, 0);
    assert!(call.stdout.starts_with("E1301: ") && call.stdout.contains("--nearest"), "{}", call.stdout);
    let document = backspool(["explain", "E1301", "--json"]).document();
    assert_eq!((document["schema"].as_u64(), document["exit"].as_u64()), (Some(1), Some(13)));
}

#[test]
fn every_code_of_the_program_is_explained() {
    let root = env!("CARGO_MANIFEST_DIR");
    let mut codes = std::collections::BTreeSet::new();
    for dir in ["src", "agent/src", "link/src", "receiver/src"] {
        collect(&std::path::Path::new(root).join(dir), &mut codes);
    }
    assert!(codes.contains("E1602") && codes.contains("E1301"), "the search finds nothing: {codes:?}");
    for code in codes {
        assert_eq!(backspool(["explain", &code]).exit, 0, "{code} is not explained");
    }
}

/// Codes as they are written: `"E1301"`, or as a number in `pub const NAME: Self = Self(1301)`.
fn collect(dir: &std::path::Path, codes: &mut std::collections::BTreeSet<String>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, codes);
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        for word in text.split('"').filter(|word| word.len() == 5 && word.starts_with('E')) {
            if word.bytes().skip(1).all(|b| b.is_ascii_digit()) {
                codes.insert(word.to_owned());
            }
        }
        for line in text.lines().filter(|line| line.trim_start().starts_with("pub const") && path.ends_with("error.rs"))
        {
            if let Some(number) = line.split_once("Self = Self(").and_then(|(_, rest)| rest.strip_suffix(");")) {
                codes.insert(format!("E{number:0>4}"));
            }
        }
    }
}

#[test]
fn colours_are_for_terminals_unless_asked_for() {
    let plain = backspool(["status", "--socket", "/nowhere"]).stderr;
    assert!(plain.starts_with("error[E1602]: "), "{plain}");
    let colored = backspool(["status", "--socket", "/nowhere", "--color", "always"]).stderr;
    assert!(colored.starts_with("\x1b[1;31merror[E1602]\x1b[0m: "), "{colored}");
}

#[test]
fn a_reader_that_has_enough_ends_us_quietly() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let child = command().args(["completions", "zsh"]).stdout(writer).stderr(std::process::Stdio::piped()).spawn();
    let output = child.unwrap().wait_with_output().unwrap();
    assert_eq!(output.stderr, b"");
    assert_eq!(output.status.code(), Some(141));
}
