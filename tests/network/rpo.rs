//! What a group may expose: the agent says once when it is more, and `status --check` judges by it.

use std::fs;

use crate::common::cluster::{Cluster, random};
use crate::common::proxy::Weather;
use crate::common::wait_for;
use crate::story::between;

#[test]
fn what_is_exposed_for_too_long_is_said_once_and_judged_by_the_check() {
    let mut cluster = Cluster::new();
    fs::write(&cluster.source, random(1, 1 << 20)).unwrap();
    let proxy = between(&mut cluster, crate::seed());
    cluster.protect = ["--rpo-warn", "500ms", "--rpo-error", "1500ms"].map(Into::into).to_vec();
    cluster.join();
    cluster.start_agent();
    cluster.settle();
    let check = |more: &[&str]| {
        let call = cluster.ask(&[&["status", "db", "--check"], more].concat());
        (call.exit, call.stdout)
    };
    wait_for("well", || (check(&[]).0 == 0).then_some(()), || cluster.words());
    let said = |what: &str| cluster.agent.as_ref().unwrap().last_words().matches(what).count();
    let (warned, failed, over) =
        ("older than rpo.warn, 0.5 s", "older than rpo.error, 1.5 s", "than rpo allows any more");
    // The first copy may have taken its time.
    let before = [warned, failed, over].map(said);

    // Ten seconds for what is written now.
    proxy.set_both(Weather { bytes_per_second: Some(100 << 10), ..Weather::default() });
    cluster.write(0, &random(2, 1 << 20));
    wait_for("an error", || (said(failed) > before[1]).then_some(()), || cluster.words());
    let line = wait_for("critical", || Some(check(&[])).filter(|(exit, _)| *exit == 2), || cluster.words()).1;
    assert!(line.contains("critical"), "{line}");
    let (exit, line) = check(&["--warn", "1h", "--crit", "1h"]);
    assert!(exit < 2, "what is typed counts more: {exit}: {line}");
    for status in [cluster.status(), cluster.agent_status()] {
        assert_eq!(status["rpo"]["warn_seconds"].as_f64(), Some(0.5), "{status}");
        assert_eq!(status["rpo"]["error_seconds"].as_f64(), Some(1.5), "{status}");
    }
    proxy.set_both(Weather::default());
    wait_for("all is well", || (said(over) > before[2]).then_some(()), || cluster.words());
    let after = [warned, failed, over].map(said);
    // On a machine that stands still for a second there is no warning before the error; on the way down there may be one.
    assert!(after[0] <= before[0] + 2, "{after:?} after {before:?}");
    assert_eq!(after[1..], [before[1] + 1, before[2] + 1], "each was said once");
    wait_for("well", || (check(&[]).0 == 0).then_some(()), || cluster.words());
    cluster.stop_agent();
    cluster.stop_receiver();
}
