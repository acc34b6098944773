//! What people and programs see: documents, lines, colours, progress.

use std::io::{self, IsTerminal, Write};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::Value;

use crate::args::{Color, Global};
use crate::error::Failure;

/// Where a call's words go.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    json: bool,
    quiet: bool,
    /// Colours of stdout.
    pub(crate) paint: Paint,
    /// Colours of stderr.
    pub(crate) paint_error: Paint,
}

impl Output {
    /// As the flags say.
    pub(crate) fn new(global: &Global) -> Self {
        let paint = |terminal: bool| Paint {
            on: match global.color {
                Color::Always => true,
                Color::Never => false,
                Color::Auto => terminal && std::env::var_os("NO_COLOR").is_none_or(|no| no.is_empty()),
            },
        };
        Self {
            json: global.json,
            quiet: global.quiet,
            paint: paint(io::stdout().is_terminal()),
            paint_error: paint(io::stderr().is_terminal()),
        }
    }

    /// Whether stdout is for programs.
    pub(crate) fn json(&self) -> bool {
        self.json
    }

    /// The result: the document on one line, or `text` for people.
    pub(crate) fn result(&self, document: &Value, text: impl FnOnce() -> String) -> Result<(), Failure> {
        match self.json {
            true => self.line(&document.to_string()),
            false => self.line(&text()),
        }
    }

    /// A line for people, nothing for programs.
    pub(crate) fn say(&self, text: &str) -> Result<(), Failure> {
        if self.json || self.quiet { Ok(()) } else { self.line(text) }
    }

    /// A line on stdout, for whoever reads it.
    pub(crate) fn line(&self, text: &str) -> Result<(), Failure> {
        self.bytes(format!("{}\n", text.trim_end_matches('\n')).as_bytes())
    }

    /// Bytes on stdout, at once.
    pub(crate) fn bytes(&self, bytes: &[u8]) -> Result<(), Failure> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(bytes).and_then(|()| stdout.flush()).map_err(|error| {
            if error.kind() == io::ErrorKind::BrokenPipe {
                // Whoever read has read enough: end as the signal would have ended us.
                std::process::exit(128 + SIGPIPE);
            }
            Failure::caused("cannot write to stdout", &error)
        })
    }

    /// A line beside the result, on stderr; not with `--quiet`.
    pub(crate) fn hint(&self, text: &str) {
        if !self.quiet {
            self.beside(text);
        }
    }

    /// A line on stderr. There is nobody left to tell when stderr is closed.
    pub(crate) fn beside(&self, text: &str) {
        _ = writeln!(io::stderr().lock(), "{text}");
    }

    /// The failure that ends this call, on stderr.
    pub(crate) fn failure(&self, failure: &Failure) {
        match self.json {
            true => self.beside(&failure.document().to_string()),
            false => self.beside(&failure.text(self.paint_error)),
        }
    }

    /// A bar over so many bytes; drawn only on a terminal.
    pub(crate) fn progress(&self) -> ProgressBar {
        let bar = ProgressBar::no_length();
        if self.quiet || !io::stderr().is_terminal() {
            bar.set_draw_target(ProgressDrawTarget::hidden());
        }
        if let Ok(style) = ProgressStyle::with_template(BAR) {
            bar.set_style(style);
        }
        bar
    }

    /// Goes on when the person agrees, or said `--yes`. Without a terminal to ask on, only `--yes` counts.
    pub(crate) fn confirm(&self, global: &Global, question: &str) -> Result<(), Failure> {
        if global.yes {
            return Ok(());
        }
        if !asks() {
            return Err(Failure::new("E0205", format!("{question} nobody here can answer that"))
                .advise("look at the plan with --dry-run, then say --yes"));
        }
        _ = write!(io::stderr().lock(), "{question} [y/N] ");
        let mut answer = String::new();
        io::stdin().read_line(&mut answer).map_err(|error| Failure::caused("cannot read the answer", &error))?;
        match answer.trim() {
            "y" | "Y" | "yes" => Ok(()),
            _ => Err(Failure::new("E0205", "not done: the answer was not yes")),
        }
    }
}

/// Whether there is a person to ask.
pub(crate) fn asks() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

/// Colours, or none.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Paint {
    on: bool,
}

impl Paint {
    /// No colours.
    #[cfg(test)]
    pub(crate) const fn plain() -> Self {
        Self { on: false }
    }

    /// Whether there are colours.
    pub(crate) fn shows(self) -> bool {
        self.on
    }

    /// What failed.
    pub(crate) fn red(self, text: &str) -> String {
        self.wrap("1;31", text)
    }

    /// What needs attention.
    pub(crate) fn yellow(self, text: &str) -> String {
        self.wrap("33", text)
    }

    /// What is well.
    pub(crate) fn green(self, text: &str) -> String {
        self.wrap("32", text)
    }

    /// What a block is about.
    pub(crate) fn bold(self, text: &str) -> String {
        self.wrap("1", text)
    }

    fn wrap(self, code: &str, text: &str) -> String {
        if self.on { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// A recovery point on one line: `2026-11-20T10:15:32.000000Z (seq 123, write, mark before)`.
pub(crate) fn point(point: &Value) -> String {
    let mut about = vec![format!("seq {}", number(point, "seq").map_or_else(|| "?".to_owned(), |seq| seq.to_string()))];
    about.extend(text(point, "class").map(str::to_owned));
    about.extend(text(point, "mark").map(|name| format!("mark {name}")));
    format!("{} ({})", text(point, "time").unwrap_or("?"), about.join(", "))
}

/// The string at `key`.
pub(crate) fn text<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    object.get(key).and_then(Value::as_str)
}

/// The whole number at `key`.
pub(crate) fn number(object: &Value, key: &str) -> Option<u64> {
    object.get(key).and_then(Value::as_u64)
}

/// The list at `key`; empty when there is none.
pub(crate) fn list<'a>(object: &'a Value, key: &str) -> &'a [Value] {
    object.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

const BAR: &str = "{bar:32} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} eta {eta}";
const SIGPIPE: i32 = 13;
