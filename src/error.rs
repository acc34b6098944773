//! What a verb ends with when it fails: a code, an exit status, what happened and what to do next.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;

use journal::error::ErrorKind;
use journal::wire::RefusalCode;
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
        Self::new("E0101", format!("{message}: {}", chain(cause)))
    }

    /// What to do next: a command where there is one.
    #[must_use]
    pub(crate) fn advise(mut self, advice: impl Into<String>) -> Self {
        self.0.advice = Some(advice.into());
        self
    }

    /// The same with another code and its exit status.
    #[must_use]
    pub(crate) fn recoded(mut self, code: &'static str) -> Self {
        self.0.exit = exit_of(code).unwrap_or(1);
        self.0.code = Cow::Borrowed(code);
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
        document["try"] = json!(advice.clone().unwrap_or_else(|| explained(code)));
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
        text.push_str(&format!("\n  try: {}", advice.clone().unwrap_or_else(|| explained(code))));
        text
    }
}

impl From<&journal::error::Error> for Failure {
    /// By what has to be done about it.
    fn from(error: &journal::error::Error) -> Self {
        let refusal = link::refusal_of(error).map(|refusal| refusal.code);
        let not_trusted = error.source().is_some_and(|source| source.is::<link::NotTrusted>());
        let code = match error.kind() {
            _ if not_trusted || refusal == Some(RefusalCode::NotEnrolled) => "E1202",
            ErrorKind::Unavailable => "E1601",
            ErrorKind::Fenced => "E1102",
            ErrorKind::Corrupt => "E1401",
            ErrorKind::NoSpace => "E1701",
            ErrorKind::Unsupported => "E1801",
            ErrorKind::Invalid => "E0206",
            ErrorKind::Poisoned => "E0102",
            ErrorKind::Locked => "E1101",
            ErrorKind::NotFound | ErrorKind::Io => "E0101",
        };
        Self::new(code, chain(error))
    }
}

/// What to do when nothing better is known.
fn explained(code: &str) -> String {
    format!("backspool explain {code}")
}

/// An error and what caused it; what a cause says that was said already is not said again.
fn chain(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(&format!(": {cause_text}"));
        }
        next = cause.source();
    }
    text
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
        assert_eq!(
            text,
            "error[E1301]: m\n  covered: nothing yet\n  before: T (seq 7, write, mark m1)\n  try: backspool explain E1301"
        );
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
    fn an_error_of_the_crates_ends_as_what_has_to_be_done_about_it() {
        use journal::error::Error;
        use journal::wire::Refusal;
        let exit = |error: Error| Failure::from(&error).exit();
        assert_eq!(exit(Error::locked("held")), 11);
        assert_eq!(exit(Error::unavailable("no answer")), 16);
        assert_eq!(exit(Error::no_space("full")), 17);
        assert_eq!(exit(Error::unsupported("no io_uring")), 18);
        assert_eq!(exit(Error::invalid("a directory")), 2);
        assert_eq!(exit(Error::not_found("no such file")), 1);
        assert_eq!(exit(Refusal::new(RefusalCode::NotEnrolled, "").into()), 12);
        assert_eq!(exit(Refusal::new(RefusalCode::Sibling, "").into()), 11);
    }

    #[test]
    fn a_cause_is_told_to_its_end() {
        let io = std::io::Error::other(journal::error::Error::corrupt("bad checksum"));
        assert_eq!(Failure::caused("cannot read x", &io).document()["message"], "cannot read x: bad checksum");
    }
}
