//! How an agent becomes known: an invitation made here, and the one redemption it is good for.
//!
//! ```text
//!            first key                 the same key
//!  open ─────────────────▶ bound to it ─────────────▶ yes again: the reply may have been lost
//!    │                          │ another key
//!    └── time over ──▶ no       └──────────────────▶ no
//! ```

use std::time::Duration;

use journal::types::{Hash, WallTime};
use journal::wire::JoinOutcome;

use crate::catalog::{Agent, Catalog, Invited, Name};
use crate::error::{Code, Error, Result};

/// How long an invitation lasts unless told otherwise.
pub const TTL_DEFAULT: Duration = Duration::from_secs(15 * 60);
/// Longest life: a string that works for weeks is a password.
const TTL_MAX: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// Invitations that may be open at once.
const OPEN_MAX: usize = 256;

/// Remembers an invitation for `agent`; returns until when it may be used. Durable before it returns.
pub fn invite(catalog: &Catalog, agent: &Name, secret: &[u8], ttl: Duration, now: WallTime) -> Result<WallTime> {
    if ttl.is_zero() || ttl > TTL_MAX {
        return Err(Error::usage("an invitation lasts from a second to 7 days"));
    }
    let micros = u64::try_from(ttl.as_micros()).map_err(|_| Error::usage("too long"))?;
    let expires = WallTime(now.0.saturating_add(micros));
    let invited = Invited { agent: agent.clone(), secret_hash: Hash::of(secret).0, expires, bound: None };
    catalog.change(|contents| {
        // A used one stays for a while, so that a lost reply can be retried; all go in the end.
        contents.invitations.retain(|known| known.expires > now);
        if contents.invitations.len() >= OPEN_MAX {
            return Err(Error::new(Code::BUSY, format!("{OPEN_MAX} invitations are open already")));
        }
        contents.invitations.push(invited);
        Ok(expires)
    })
}

/// Enrols the key of whoever presents a secret, under the name it was meant for; or says why not, which is for the holder of the
/// secret only to know. Durable before it returns.
pub fn redeem(catalog: &Catalog, secret: &[u8], pin: [u8; 32], now: WallTime) -> Result<JoinOutcome> {
    let secret_hash = Hash::of(secret).0;
    catalog.change(|contents| {
        let found = contents.invitations.iter().position(|invited| invited.secret_hash == secret_hash);
        let invited = found.and_then(|place| contents.invitations.get_mut(place));
        let agent = match decide(invited.as_deref(), &contents.agents, pin, now) {
            Decision::Again(agent) => agent,
            Decision::Bind(agent) => {
                if let Some(invited) = invited {
                    invited.bound = Some(pin);
                }
                // Whatever else was open for this name is void: the key it would bring back is not the newest.
                contents.invitations.retain(|other| other.agent != agent || other.secret_hash == secret_hash);
                agent
            }
            Decision::Refuse(why) => return Ok(why),
        };
        // Who is invited again under a known name gets a new key, and the old one is forgotten.
        contents.agents.retain(|known| known.name != agent);
        contents.agents.push(Agent { name: agent.clone(), pin });
        Ok(JoinOutcome::Joined(agent.as_str().to_owned()))
    })
}

#[derive(Debug, PartialEq, Eq)]
enum Decision {
    /// The first use.
    Bind(Name),
    /// The same key once more.
    Again(Name),
    Refuse(JoinOutcome),
}

fn decide(invited: Option<&Invited>, agents: &[Agent], pin: [u8; 32], now: WallTime) -> Decision {
    let Some(Invited { agent, expires, bound, .. }) = invited else { return Decision::Refuse(JoinOutcome::Unknown) };
    // One key is one agent.
    let other_name = agents.iter().any(|known| known.pin == pin && known.name != *agent);
    match bound {
        // Worth more than that it is too old by now: somebody had the string.
        Some(bound) if *bound != pin => Decision::Refuse(JoinOutcome::Used),
        _ if *expires <= now => Decision::Refuse(JoinOutcome::Expired),
        _ if other_name => Decision::Refuse(JoinOutcome::OtherName),
        Some(_) => Decision::Again(agent.clone()),
        None => Decision::Bind(agent.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::{StoreDir, StoreId};

    const NOW: WallTime = WallTime(1_000_000_000);
    const MINUTE: Duration = Duration::from_secs(60);

    fn later(seconds: u64) -> WallTime {
        WallTime(NOW.0 + seconds * 1_000_000)
    }

    fn catalog(dir: &tempfile::TempDir) -> Catalog {
        Catalog::open(StoreDir::open(dir.path(), StoreId([1; 16])).unwrap()).unwrap()
    }

    fn joined(text: &str) -> JoinOutcome {
        JoinOutcome::Joined(text.to_owned())
    }

    fn name(text: &str) -> Name {
        Name::parse(text).unwrap()
    }

    #[test]
    fn one_invitation_is_one_key_even_if_the_reply_was_lost() {
        let dir = tempfile::tempdir().unwrap();
        let first = catalog(&dir);
        invite(&first, &name("web"), b"secret", MINUTE, NOW).unwrap();
        assert_eq!(redeem(&first, b"secret", [1; 32], later(1)).unwrap(), joined("web"));
        assert_eq!(redeem(&first, b"secret", [1; 32], later(2)).unwrap(), joined("web"), "the reply was lost");
        drop(first);
        let again = catalog(&dir);
        assert_eq!(again.agent([1; 32]), Some(name("web")), "after a restart");
        assert_eq!(redeem(&again, b"secret", [2; 32], later(3)).unwrap(), JoinOutcome::Used);
        assert_eq!(redeem(&again, b"secret", [2; 32], later(90)).unwrap(), JoinOutcome::Used, "that somebody had it");
        assert_eq!(again.agent([2; 32]), None);
    }

    #[test]
    fn expired_foreign_and_garbled_ones_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let catalog = catalog(&dir);
        assert_eq!(invite(&catalog, &name("web"), b"secret", MINUTE, NOW).unwrap(), later(60));
        for garbled in [&b"foreign"[..], b"", b"secret\0", b"Secret"] {
            assert_eq!(redeem(&catalog, garbled, [1; 32], later(1)).unwrap(), JoinOutcome::Unknown);
        }
        assert_eq!(redeem(&catalog, b"secret", [1; 32], later(60)).unwrap(), JoinOutcome::Expired);
        assert_eq!(catalog.agent([1; 32]), None);
        assert_eq!(redeem(&catalog, b"secret", [1; 32], later(59)).unwrap(), joined("web"));
        for ttl in [Duration::ZERO, Duration::from_secs(8 * 86400), Duration::MAX] {
            assert_eq!(invite(&catalog, &name("x"), b"s", ttl, NOW).unwrap_err().code(), Code::USAGE);
        }
    }

    #[test]
    fn a_key_has_one_name_and_a_name_has_one_key() {
        let dir = tempfile::tempdir().unwrap();
        let catalog = catalog(&dir);
        invite(&catalog, &name("web"), b"1", MINUTE, NOW).unwrap();
        invite(&catalog, &name("db"), b"2", MINUTE, NOW).unwrap();
        redeem(&catalog, b"1", [1; 32], NOW).unwrap();
        invite(&catalog, &name("web"), b"3", MINUTE, NOW).unwrap();
        assert_eq!(redeem(&catalog, b"2", [1; 32], NOW).unwrap(), JoinOutcome::OtherName);
        assert_eq!(redeem(&catalog, b"2", [2; 32], NOW).unwrap(), joined("db"), "a refusal does not use it up");
        redeem(&catalog, b"3", [3; 32], NOW).unwrap();
        assert_eq!(catalog.agent([1; 32]), None, "the machine was set up again, its old key counts no more");
        assert_eq!(redeem(&catalog, b"1", [1; 32], NOW).unwrap(), JoinOutcome::Unknown, "nor its string");
        assert_eq!(catalog.agent([3; 32]), Some(name("web")));
    }

    #[test]
    fn invitations_are_bounded_and_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let catalog = catalog(&dir);
        for i in 0..u64::try_from(OPEN_MAX).unwrap() {
            invite(&catalog, &name("web"), &i.to_le_bytes(), MINUTE, NOW).unwrap();
        }
        assert_eq!(invite(&catalog, &name("web"), b"more", MINUTE, NOW).unwrap_err().code(), Code::BUSY);
        invite(&catalog, &name("web"), b"more", MINUTE, later(60)).unwrap();
        assert_eq!(catalog.locked().invitations.len(), 1);
    }
}
