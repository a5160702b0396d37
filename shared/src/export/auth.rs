//! What proves to a backend who sends: the Collector's `bearertokenauth` and `basicauth`.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderName, HeaderValue};
use serde::Deserialize;
use serde::de::MapAccess;
use tokio::time::Instant;

use super::config::Secret;
use crate::config::{Invalid, settings_or_default};
use crate::files;

/// A token in a file is read again when it was read so long ago: those of Kubernetes are replaced within the hour.
const READ_AGAIN: Duration = Duration::from_secs(10);

/// `extensions.bearertokenauth`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BearerConfig {
    /// The word before the token; empty: none.
    pub scheme: String,
    /// The header.
    pub header: String,
    /// The token.
    pub token: Option<Secret>,
    /// A file with the token, which is read again when it changes.
    pub filename: Option<PathBuf>,
}

impl Default for BearerConfig {
    fn default() -> Self {
        Self { scheme: "Bearer".into(), header: "authorization".into(), token: None, filename: None }
    }
}

/// `extensions.basicauth`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BasicConfig {
    /// Who sends.
    pub client_auth: Option<BasicClient>,
}

/// `client_auth` of `basicauth`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BasicClient {
    /// The user.
    pub username: String,
    /// The password.
    pub password: Secret,
}

/// `auth` of an exporter.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuthConfig {
    /// The extension.
    pub authenticator: String,
}

/// An extension that exporters can name in `auth`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Authenticator {
    /// `bearertokenauth`
    Bearer(BearerConfig),
    /// `basicauth`
    Basic(BasicConfig),
}

impl Authenticator {
    /// Reads the settings of `kind`: `bearertokenauth`, or else `basicauth`.
    pub fn deserialize_kind<'de, A: MapAccess<'de>>(kind: &str, map: &mut A) -> Result<Self, A::Error> {
        Ok(match kind {
            "bearertokenauth" => Self::Bearer(settings_or_default(map)?),
            _ => Self::Basic(settings_or_default(map)?),
        })
    }

    /// Checks what can be checked without reading a file; `key` is the extension's.
    pub fn validate(&self, key: &str) -> Result<(), Invalid> {
        let wrong = |name: &str, what: &str| Err(Invalid::new(format!("{key}{name}"), what));
        match self {
            Self::Bearer(c) if c.header.parse::<HeaderName>().is_err() => {
                wrong(".header", "is not a valid header name")
            }
            Self::Bearer(c) => match (&c.token, &c.filename) {
                (None, None) => wrong("", "has neither token nor filename; one is needed"),
                (Some(token), None) if token.0.is_empty() => wrong(".token", "is empty"),
                _ => self.fixed().map_or(Ok(()), |value| match HeaderValue::from_str(&value) {
                    Ok(_) => Ok(()),
                    Err(_) => wrong(".token", "has a character that a header cannot have"),
                }),
            },
            Self::Basic(BasicConfig { client_auth: Some(c) }) if !c.username.is_empty() => Ok(()),
            Self::Basic(_) => wrong(".client_auth", "needs username and password"),
        }
    }

    /// The header's value, unless it is in a file.
    fn fixed(&self) -> Option<String> {
        match self {
            Self::Bearer(BearerConfig { filename: Some(_), .. }) => None,
            Self::Bearer(c) => Some(with_scheme(&c.scheme, &c.token.as_ref()?.0)),
            Self::Basic(c) => {
                let c = c.client_auth.as_ref()?;
                Some(format!("Basic {}", STANDARD.encode(format!("{}:{}", c.username, c.password.0))))
            }
        }
    }
}

fn with_scheme(scheme: &str, token: &str) -> String {
    if scheme.is_empty() { token.to_owned() } else { format!("{scheme} {token}") }
}

/// The header of one exporter that says who sends.
#[derive(Clone)]
pub struct Authorization {
    header: HeaderName,
    source: Source,
}

#[derive(Clone)]
enum Source {
    Fixed(HeaderValue),
    File { path: PathBuf, scheme: String, read: Arc<Mutex<Option<(Instant, HeaderValue)>>> },
}

impl fmt::Debug for Authorization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Authorization({})", self.header)
    }
}

impl Authorization {
    /// As `authenticator` says, whose key is `key`.
    pub fn try_new(key: &str, authenticator: &Authenticator) -> Result<Self, Invalid> {
        authenticator.validate(key)?;
        let name = match authenticator {
            Authenticator::Bearer(c) => c.header.as_str(),
            Authenticator::Basic(_) => "authorization",
        };
        let header: HeaderName =
            name.parse().map_err(|_| Invalid::new(format!("{key}.header"), "is not a valid header name"))?;
        if let Authenticator::Bearer(BearerConfig { filename: Some(path), scheme, .. }) = authenticator {
            let (path, scheme) = (path.clone(), scheme.clone());
            if let Err(e) = read(&path, &scheme) {
                let message = format!("cannot be used: {}: {e}", path.display());
                return Err(Invalid::new(format!("{key}.filename"), message));
            }
            return Ok(Self { header, source: Source::File { path, scheme, read: Arc::default() } });
        }
        let value = authenticator.fixed().unwrap_or_default();
        let wrong = |_| Invalid::new(key, "has a character that a header cannot have");
        let mut value = HeaderValue::from_str(&value).map_err(wrong)?;
        value.set_sensitive(true);
        Ok(Self { header, source: Source::Fixed(value) })
    }

    /// The header and what it says now. A file that cannot be read keeps what it said last.
    pub(super) fn now(&self) -> Option<(HeaderName, HeaderValue)> {
        let value = match &self.source {
            Source::Fixed(value) => value.clone(),
            Source::File { path, scheme, read: last } => {
                let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
                if last.as_ref().is_none_or(|(at, _)| at.elapsed() > READ_AGAIN) {
                    match read(path, scheme) {
                        Ok(value) => *last = Some((Instant::now(), value)),
                        Err(error) => {
                            tracing::warn!(path = %path.display(), %error, "the token cannot be read; the last one is kept");
                        }
                    }
                }
                last.as_ref()?.1.clone()
            }
        };
        Some((self.header.clone(), value))
    }
}

fn read(path: &Path, scheme: &str) -> std::io::Result<HeaderValue> {
    let text = files::read_text(path, files::SECRETS)?;
    let mut value =
        HeaderValue::from_str(&with_scheme(scheme, text.trim())).map_err(std::io::Error::other)?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(authenticator: &Authenticator) -> String {
        let (name, value) = Authorization::try_new("extensions.x", authenticator).unwrap().now().unwrap();
        assert!(value.is_sensitive());
        format!("{name}: {}", value.to_str().unwrap())
    }

    #[test]
    fn headers_are_those_of_the_collector() {
        let bearer = |scheme: &str| BearerConfig {
            token: Some("t0k3n".to_owned().into()),
            scheme: scheme.into(),
            ..BearerConfig::default()
        };
        assert_eq!(said(&Authenticator::Bearer(bearer("Bearer"))), "authorization: Bearer t0k3n");
        assert_eq!(said(&Authenticator::Bearer(bearer(""))), "authorization: t0k3n");
        let client = BasicClient { username: "ada".into(), password: "secret".to_owned().into() };
        let basic = Authenticator::Basic(BasicConfig { client_auth: Some(client) });
        assert_eq!(said(&basic), "authorization: Basic YWRhOnNlY3JldA==");
        assert!(!format!("{basic:?}").contains("secret"));
        let nothing = Authenticator::Bearer(BearerConfig::default());
        assert!(nothing.validate("extensions.bearertokenauth").is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_in_a_file_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        std::fs::write(&path, "one\n").unwrap();
        let config = BearerConfig { filename: Some(path.clone()), ..BearerConfig::default() };
        let auth = Authorization::try_new("x", &Authenticator::Bearer(config)).unwrap();
        assert_eq!(auth.now().unwrap().1, "Bearer one");
        std::fs::write(&path, "two").unwrap();
        tokio::time::advance(Duration::from_secs(11)).await;
        assert_eq!(auth.now().unwrap().1, "Bearer two");
        std::fs::remove_file(&path).unwrap();
        tokio::time::advance(Duration::from_secs(11)).await;
        assert_eq!(auth.now().unwrap().1, "Bearer two", "the last one is kept");
    }
}
