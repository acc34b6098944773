//! Where a group's state stands: one that stands elsewhere than it was made is a copy, and what it was copied from may still run.

use std::fs::{self, File};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::Result;
use crate::source::Identity;

/// What a machine's firmware or hypervisor calls it: a cloned machine gets another. Only root may read it.
const MACHINE: &str = "/sys/class/dmi/id/product_uuid";

/// A directory on a machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Place {
    pub(super) directory: Identity,
    /// `None`: nobody could tell.
    pub(super) machine: Option<String>,
}

impl Place {
    /// Of the directory at `path`, here.
    pub(super) fn of(path: &Path) -> Result<Self> {
        let directory = File::open(path).map_err(crate::Error::from).and_then(Identity::of_file);
        let machine = fs::read_to_string(MACHINE).ok().map(|text| text.trim().to_owned());
        Ok(Self { directory: directory.map_err(|error| error.with_path(path))?, machine })
    }

    /// Whether both are one place, as far as is known of both.
    pub(super) fn is(&self, other: &Self) -> bool {
        let machines = self.machine.as_ref().zip(other.machine.as_ref());
        self.directory == other.directory && machines.is_none_or(|(one, two)| one == two)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "as a person moves a directory")]
    fn a_place_is_a_directory_on_a_machine() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two, moved) = (dir.path().join("one"), dir.path().join("two"), dir.path().join("moved"));
        fs::create_dir(&one).unwrap();
        fs::create_dir(&two).unwrap();
        let here = Place::of(&one).unwrap();
        assert!(here.is(&here.clone()) && !here.is(&Place::of(&two).unwrap()));
        fs::rename(&one, &moved).unwrap();
        assert!(here.is(&Place::of(&moved).unwrap()), "a name is no place");
        let on = |machine: Option<&str>| Place { machine: machine.map(str::to_owned), ..here.clone() };
        assert!(!on(Some("a")).is(&on(Some("b"))), "a cloned machine");
        assert!(on(Some("a")).is(&on(None)) && on(None).is(&on(Some("b"))), "what is not known tells nothing");
    }
}
