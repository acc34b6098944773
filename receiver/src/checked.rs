//! Small JSON files that notice when they are not what was written: one line that checks, then the document.
//!
//! ```text
//! {"format":"backspool-catalog","version":1,"blake3":"…of all that follows"}
//! {
//!   "agents": …
//! ```

use journal::types::Hash;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::error::{Code, Error, Result};

/// What a kind of file is called, and the newest version this program knows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Format {
    pub(crate) name: &'static str,
    pub(crate) version: u32,
}

#[derive(Deserialize)]
struct CheckLine {
    format: String,
    version: u32,
    blake3: String,
}

impl Format {
    /// The file of `document`.
    ///
    /// # Panics
    /// If it has no JSON form: names, numbers and lists always do.
    pub(crate) fn encode<T: Serialize>(self, document: &T) -> Vec<u8> {
        let body = serde_json::to_vec_pretty(document).expect("the document has a JSON form");
        let line = json!({"format": self.name, "version": self.version, "blake3": Hash::of(&body).to_string()});
        let mut file = format!("{line}\n").into_bytes();
        file.extend_from_slice(&body);
        file
    }

    /// From its file: the first line is believed for the version, then everything has to match it.
    pub(crate) fn decode<T: DeserializeOwned>(self, file: &[u8]) -> Result<T> {
        let damaged = |why: &str| Error::new(Code::DAMAGED, why);
        let end = file.iter().position(|&byte| byte == b'\n').ok_or_else(|| damaged("it has no first line"))?;
        let (line, body) = (&file[..end], &file[end + 1..]);
        let line: CheckLine =
            serde_json::from_slice(line).map_err(|error| damaged("its first line is damaged").with_source(error))?;
        if line.format != self.name {
            return Err(damaged("it is a file of something else"));
        }
        if line.version > self.version {
            let message = format!("written by a newer version (format {})", line.version);
            return Err(Error::new(Code::NEWER, message).hint("use the version that wrote it, or a newer one"));
        }
        if line.version != self.version || line.blake3 != Hash::of(body).to_string() {
            return Err(damaged("it does not match its checksum"));
        }
        serde_json::from_slice(body).map_err(|error| damaged("it has fields that make no sense").with_source(error))
    }
}
