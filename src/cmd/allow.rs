//! `allow`: for a while, the receiver may write to the sources of a group; or what it began there is given up.

use std::time::Duration;

use serde_json::json;

use super::{Context, Outcome};
use crate::args::Allow;
use crate::names::Name;
use crate::output::text;
use crate::units::{parse_duration, seconds, whole_seconds};

pub(super) async fn run(context: &Context, args: &Allow) -> Outcome {
    context.refuse_dry_run("allow")?;
    let group = Name::parse("a group", &args.group)?;
    let Some(time) = &args.time else { return give_up(context, &group).await };
    let time = if is_nothing(time) { Duration::ZERO } else { parse_duration(time)? };
    let body = json!({"group": group.as_str(), "for_seconds": whole_seconds(time)});
    let document = context.agent()?.post("/v1/allow", &body).await?;
    context.out.result(&document, || match text(&document, "until") {
        Some(until) => format!(
            "the receiver may write to the sources of {group} for {}, until {until}, or until the agent ends\n  \
             on its machine: backspool rollback {group} --at WHEN --live",
            seconds(time.as_secs_f64())
        ),
        None => format!("the receiver may not write to the sources of {group}"),
    })?;
    Ok(0)
}

/// Nobody goes on with a live rollback of the group.
async fn give_up(context: &Context, group: &Name) -> Outcome {
    let agent = context.agent()?;
    context.out.confirm(
        &context.global,
        &format!("Give up taking the sources of {group} back? They stay a mix of now and then until another rollback or a restore."),
    )?;
    let document = agent.post("/v1/give-up", &json!({"group": group.as_str()})).await?;
    context.out.result(&document, || {
        let target = document["given_up_seq"].as_u64().unwrap_or_default();
        format!(
            "taking the sources of {group} back to seq:{target} is given up: clients are let in, and everything is compared\n  \
             they are a mix of now and then: before anybody trusts them, once backspool status {group} says live,\n  \
             backspool allow {group} --for 10m, and on the receiver's machine: backspool rollback {group} --at seq:{target} --live"
        )
    })?;
    Ok(0)
}

/// No time at all, which no other length of time may be: `0s`.
fn is_nothing(text: &str) -> bool {
    let digits = text.trim().trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    !digits.is_empty() && digits.bytes().all(|byte| byte == b'0')
}

#[cfg(test)]
mod tests {
    use super::is_nothing;

    #[test]
    fn nothing_takes_it_back() {
        for nothing in ["0", "0s", " 00m ", "0h"] {
            assert!(is_nothing(nothing), "{nothing}");
        }
        for something in ["", "s", "10m", "0.1s", "-0s", "1h 0m"] {
            assert!(!is_nothing(something), "{something}");
        }
    }
}
