//! What a verb ends with when it fails: a code, an exit status, what happened and what to do next.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;

use serde_json::{Value, json};

use crate::output::Paint;

/// A failed call, as people and programs see it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Failure(Box<Inner>);

#[derive(Clone, Debug, PartialEq)]
struct Inner {
    /// `E` and four digits; the first two are the exit status.
    code: Cow<'static, str>,
    exit: u8,
    message: String,
    covered: Option<Value>,
    advice: Option<String>,
}

impl Failure {
    /// A failure with this code; its exit status is in the code.
    pub(crate) fn new(code: &'static str, message: impl Into<String>) -> Self {
        let exit = exit_of(code).unwrap_or(1);
        let message = message.into();
        Self(Box::new(Inner { code: Cow::Borrowed(code), exit, message, covered: None, advice: None }))
    }

    /// E0206: an argument that cannot be.
    pub(crate) fn argument(message: impl Into<String>) -> Self {
        Self::new("E0206", message)
    }

    /// What the system refused, with the whole chain of causes.
    pub(crate) fn caused(message: impl fmt::Display, cause: &dyn StdError) -> Self {
        let mut text = message.to_string();
        let mut next = Some(cause);
        while let Some(cause) = next {
            text.push_str(&format!(": {cause}"));
            next = cause.source();
        }
        Self::new("E0101", text)
    }

    /// What to do next: a command where there is one.
    #[must_use]
    pub(crate) fn advise(mut self, advice: impl Into<String>) -> Self {
        self.0.advice = Some(advice.into());
        self
    }

    /// An error document of the control API, rendered as it came; `None` when it is something else.
    pub(crate) fn from_document(document: &Value) -> Option<Self> {
        let text = |key: &str| document.get(key).and_then(Value::as_str).map(str::to_owned);
        if document.get("type").and_then(Value::as_str) != Some("error") {
            return None;
        }
        let exit = document.get("exit").and_then(Value::as_u64).and_then(|exit| u8::try_from(exit).ok());
        Some(Self(Box::new(Inner {
            code: Cow::Owned(text("code").unwrap_or_else(|| "E0101".to_owned())),
            // An error never ends in success, whatever the other side says.
            exit: exit.filter(|&exit| exit != 0).unwrap_or(1),
            message: text("message").unwrap_or_else(|| "failed without a reason".to_owned()),
            covered: document.get("covered").filter(|covered| covered.is_object()).cloned(),
            advice: text("try"),
        })))
    }

    /// The process's exit status.
    pub(crate) fn exit(&self) -> u8 {
        self.0.exit
    }

    /// One line of JSON.
    pub(crate) fn document(&self) -> Value {
        let Inner { code, exit, message, covered, advice } = &*self.0;
        let mut document = json!({"type": "error", "code": code, "exit": exit, "message": message});
        if let Some(covered) = covered {
            document["covered"] = covered.clone();
        }
        if let Some(advice) = advice {
            document["try"] = json!(advice);
        }
        document
    }

    /// Lines for people, without the last line end.
    pub(crate) fn text(&self, paint: Paint) -> String {
        let Inner { code, message, covered, advice, .. } = &*self.0;
        let mut text = format!("{}: {message}", paint.red(&format!("error[{code}]")));
        if let Some(covered) = covered {
            let at = |key: &str| covered.get(key).and_then(Value::as_str);
            match (at("from"), at("to")) {
                (Some(from), Some(to)) => text.push_str(&format!("\n  covered: {from} … {to}")),
                _ => text.push_str("\n  covered: nothing yet"),
            }
            for key in ["before", "after"] {
                if let Some(neighbour) = covered.get(key).filter(|neighbour| !neighbour.is_null()) {
                    text.push_str(&format!("\n  {key}: {}", crate::output::point(neighbour)));
                }
            }
        }
        if let Some(advice) = advice {
            text.push_str(&format!("\n  try: {advice}"));
        }
        text
    }
}

/// The exit status that a code stands for: its first two digits.
pub(crate) fn exit_of(code: &str) -> Option<u8> {
    let digits = code.strip_prefix('E').filter(|digits| digits.len() == 4)?;
    digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.get(..2)?.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Paint = Paint::plain();

    #[test]
    fn an_error_says_what_where_and_what_to_do() {
        let came = json!({
            "type": "error", "code": "E1301", "exit": 13,
            "message": "no recovery point at 2026-11-16T09:00:00Z for db",
            "covered": {"from": "2026-11-17T10:31:00.000000Z", "to": "2026-11-20T10:31:02.114201Z"},
            "try": "backspool restore db --at 2026-11-17T10:31:00Z --to /tmp/db.img",
        });
        let failure = Failure::from_document(&came).unwrap();
        assert_eq!(failure.exit(), 13);
        assert_eq!(
            failure.text(PLAIN),
            "error[E1301]: no recovery point at 2026-11-16T09:00:00Z for db\n  \
             covered: 2026-11-17T10:31:00.000000Z … 2026-11-20T10:31:02.114201Z\n  \
             try: backspool restore db --at 2026-11-17T10:31:00Z --to /tmp/db.img"
        );
        assert_eq!(failure.document(), came);
    }

    #[test]
    fn neighbours_and_empty_coverage_are_shown() {
        let came = json!({"type": "error", "code": "E1301", "exit": 13, "message": "m", "covered":
            {"from": null, "to": null, "before": {"seq": 7, "time": "T", "class": "write", "mark": "m1"}, "after": null}});
        let text = Failure::from_document(&came).unwrap().text(PLAIN);
        assert_eq!(text, "error[E1301]: m\n  covered: nothing yet\n  before: T (seq 7, write, mark m1)");
    }

    #[test]
    fn a_document_that_is_no_error_is_none_and_an_error_is_never_success() {
        assert_eq!(Failure::from_document(&json!({"schema": 1})), None);
        let failure = Failure::from_document(&json!({"type": "error", "exit": 0})).unwrap();
        assert_eq!(failure.exit(), 1);
    }

    #[test]
    fn a_code_holds_its_exit_status() {
        assert_eq!(exit_of("E1301"), Some(13));
        assert_eq!(exit_of("E0206"), Some(2));
        for bad in ["", "E", "1301", "E130", "E13011", "E+301", "Eäö"] {
            assert_eq!(exit_of(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_cause_is_told_to_its_end() {
        let io = std::io::Error::other(journal::error::Error::corrupt("bad checksum"));
        assert_eq!(Failure::caused("cannot read x", &io).document()["message"], "cannot read x: bad checksum");
    }
}
