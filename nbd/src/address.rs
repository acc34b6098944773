//! Where a server listens, as people write it.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// `unix:PATH` or `HOST:PORT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A Unix socket.
    Unix(PathBuf),
    /// A TCP port; the host is a name, an IPv4 address, or an IPv6 address without its brackets.
    Tcp {
        /// Name or address.
        host: String,
        /// Port; 0 takes any that is free.
        port: u16,
    },
}

/// What is wrong with an address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Neither form.
    #[error("`{0}` is not an NBD address: write unix:PATH or HOST:PORT")]
    NoForm(String),
    /// `unix:` and nothing behind it.
    #[error("`unix:` needs a path behind it, as in unix:/run/backspool/db.sock")]
    NoPath,
    /// Nothing before the port.
    #[error("`{0}` has no host: write 127.0.0.1{0}")]
    NoHost(String),
    /// An IPv6 address without brackets.
    #[error("`{0}` has several colons: write an IPv6 address in brackets, as in [::1]:10809")]
    NoBrackets(String),
    /// What is behind the last colon is no port.
    #[error("`{port}` in `{address}` is not a port: it is a number up to 65535")]
    NoPort {
        /// What was to be the port.
        port: String,
        /// All of it.
        address: String,
    },
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        if let Some(path) = text.strip_prefix("unix:") {
            return if path.is_empty() { Err(AddressError::NoPath) } else { Ok(Self::Unix(path.into())) };
        }
        let Some((host, port)) = text.rsplit_once(':') else { return Err(AddressError::NoForm(text.to_owned())) };
        let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        if bracketed.is_none() && host.contains(':') {
            return Err(AddressError::NoBrackets(text.to_owned()));
        }
        let host = bracketed.unwrap_or(host);
        if host.is_empty() {
            return Err(AddressError::NoHost(text.to_owned()));
        }
        let digits = port.bytes().all(|byte| byte.is_ascii_digit());
        match port.parse() {
            Ok(port) if digits => Ok(Self::Tcp { host: host.to_owned(), port }),
            _ => Err(AddressError::NoPort { port: port.to_owned(), address: text.to_owned() }),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Address, AddressError};

    #[test]
    fn addresses_read_as_they_are_written() {
        for text in ["unix:/run/db.sock", "unix:db.sock", "127.0.0.1:10809", "localhost:0", "[::1]:10809"] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
        assert_eq!("[::1]:9".parse(), Ok(Address::Tcp { host: "::1".into(), port: 9 }));
    }

    #[test]
    fn what_is_wrong_is_said() {
        let error = |text: &str| text.parse::<Address>().unwrap_err();
        assert!(matches!(error(""), AddressError::NoForm(_)));
        assert!(matches!(error("/run/db.sock"), AddressError::NoForm(_)));
        assert_eq!(error("unix:"), AddressError::NoPath);
        assert!(matches!(error(":10809"), AddressError::NoHost(_)));
        assert!(matches!(error("[]:10809"), AddressError::NoHost(_)));
        assert!(matches!(error("::1:10809"), AddressError::NoBrackets(_)));
        for text in ["localhost:", "localhost:nbd", "localhost:65536", "localhost:+1", "localhost:-1"] {
            assert!(matches!(error(text), AddressError::NoPort { .. }), "{text}");
        }
    }
}
