//! Who may read and who may act.
//!
//! On loopback everybody on this machine may read. Elsewhere reading needs a token or a client certificate, and TLS. Acting needs a
//! token of its own or a certificate that is listed, each time: no cookie acts. A browser that has shown a token to read gets a cookie,
//! which is worth nothing from another address, from another browser, after twelve hours, or once this program has started again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::http::{HeaderMap, HeaderValue, header};
use perigee_shared::config::Invalid;
use perigee_shared::files;
use perigee_shared::link::tls;
use perigee_shared::serve::{Endpoint, Peer};
use rand::TryRngCore;
use serde::Deserialize;
use tokio::time::Instant;

/// The shortest token that is taken.
const SHORTEST: usize = 16;

/// Names and tokens of one file, at most.
const MOST_TOKENS: usize = 256;

/// How long a cookie is worth something.
const SESSION: Duration = Duration::from_secs(12 * 3600);

/// Sessions at once; the oldest goes.
const MOST_SESSIONS: usize = 256;

/// The cookie.
const COOKIE: &str = "perigee_session";

/// `extensions.console`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConsoleConfig {
    /// `HOST:PORT`.
    pub endpoint: String,
    /// TLS; with `client_ca_file` only who has a certificate of it may connect.
    pub tls: Option<ConsoleTls>,
    /// Who may read: lines of a name and a token.
    pub read_tokens_file: Option<PathBuf>,
    /// Who may act.
    pub act_tokens_file: Option<PathBuf>,
    /// Names in client certificates that may act.
    #[serde(default)]
    pub act_certificates: Vec<String>,
}

/// `extensions.console.tls`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConsoleTls {
    /// The certificate chain, PEM.
    pub cert_file: PathBuf,
    /// Its private key, PEM.
    pub key_file: PathBuf,
    /// The authority of those who may connect, PEM.
    pub client_ca_file: Option<PathBuf>,
}

impl ConsoleConfig {
    /// Checks what can be checked without reading files; `key` is the path of this section.
    pub fn validate(&self, key: &str) -> Vec<Invalid> {
        let mut wrong = Vec::new();
        let endpoint = match Endpoint::parse(&self.endpoint) {
            Ok(endpoint) => endpoint,
            Err(message) => return vec![Invalid::new(format!("{key}.endpoint"), message)],
        };
        let certificates = self.tls.as_ref().is_some_and(|tls| tls.client_ca_file.is_some());
        if !endpoint.is_local() && self.tls.is_none() {
            let message = format!(
                "{} can be reached from other machines, and telemetry would cross the network in the clear; use 127.0.0.1, or set \
                 {key}.tls",
                self.endpoint
            );
            wrong.push(Invalid::new(format!("{key}.endpoint"), message));
        }
        if !endpoint.is_local() && self.read_tokens_file.is_none() && !certificates {
            let message = format!(
                "{} can be reached from other machines, and everybody could read; set {key}.read_tokens_file or \
                 {key}.tls.client_ca_file",
                self.endpoint
            );
            wrong.push(Invalid::new(format!("{key}.endpoint"), message));
        }
        if !self.act_certificates.is_empty() && !certificates {
            let message = format!("needs {key}.tls.client_ca_file: without it nobody shows a certificate");
            wrong.push(Invalid::new(format!("{key}.act_certificates"), message));
        }
        wrong
    }
}

/// Tokens by the names of who has them; of a token only its hash is kept.
#[derive(Debug, Default)]
struct Tokens(Vec<(String, blake3::Hash)>);

impl Tokens {
    fn load(key: &str, path: &Path) -> Result<Self, Invalid> {
        let wrong = |why: String| Invalid::new(key, format!("{}: {why}", path.display()));
        let text = files::read_text(path, files::SECRETS).map_err(|e| wrong(e.to_string()))?;
        let mut tokens = Vec::new();
        for (n, line) in (1..).zip(text.lines()) {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let Some((name, token)) = line.split_once(char::is_whitespace) else {
                return Err(wrong(format!("line {n} is not a name and a token")));
            };
            let token = token.trim();
            if token.len() < SHORTEST {
                return Err(wrong(format!(
                    "the token in line {n} has less than {SHORTEST} characters; make one with `openssl rand -hex 24`"
                )));
            }
            tokens.push((name.chars().take(63).collect(), blake3::hash(token.as_bytes())));
        }
        if tokens.is_empty() {
            return Err(wrong("there is no token in it; write a name and a token in each line".to_owned()));
        }
        if tokens.len() > MOST_TOKENS {
            return Err(wrong(format!("more than {MOST_TOKENS} tokens")));
        }
        Ok(Self(tokens))
    }

    /// Whose token this is. Every hash is compared, in constant time.
    fn whose(&self, token: &str) -> Option<&str> {
        let hash = blake3::hash(token.as_bytes());
        self.0
            .iter()
            .fold(None, |found, (name, known)| if *known == hash { Some(name.as_str()) } else { found })
    }
}

struct Session {
    who: String,
    /// Where it was begun, and with what.
    at: blake3::Hash,
    until: Instant,
}

/// Who may read and who may act.
pub(super) struct Roles {
    /// Everybody who can connect may read.
    open: bool,
    secure: bool,
    read: Tokens,
    act: Tokens,
    act_certificates: Vec<String>,
    sessions: Mutex<BTreeMap<[u8; 32], Session>>,
}

/// What a page says of reading and acting.
#[derive(Debug, Clone, Copy)]
pub(super) struct Access {
    /// Reading needs a session, which can be ended.
    pub(super) sessions: bool,
    /// Somebody may act with a token.
    pub(super) act_tokens: bool,
    /// Somebody may act at all.
    pub(super) acts: bool,
}

impl Roles {
    /// Reads the token files.
    pub(super) fn try_new(config: &ConsoleConfig, key: &str) -> Result<Self, Invalid> {
        let load = |name: &str, path: &Option<PathBuf>| match path {
            Some(path) => Tokens::load(&format!("{key}.{name}"), path),
            None => Ok(Tokens::default()),
        };
        let certificates = config.tls.as_ref().is_some_and(|tls| tls.client_ca_file.is_some());
        Ok(Self {
            open: config.read_tokens_file.is_none() || certificates,
            secure: config.tls.is_some(),
            read: load("read_tokens_file", &config.read_tokens_file)?,
            act: load("act_tokens_file", &config.act_tokens_file)?,
            act_certificates: config.act_certificates.clone(),
            sessions: Mutex::default(),
        })
    }

    /// What is wrong with the files of tokens.
    pub(super) fn check(config: &ConsoleConfig, key: &str) -> Vec<Invalid> {
        let files =
            [("read_tokens_file", &config.read_tokens_file), ("act_tokens_file", &config.act_tokens_file)];
        let load = |(name, path): (&str, &Option<PathBuf>)| {
            Tokens::load(&format!("{key}.{name}"), path.as_deref()?).err()
        };
        files.into_iter().filter_map(load).collect()
    }

    pub(super) fn access(&self) -> Access {
        let act_tokens = !self.act.0.is_empty();
        Access { sessions: !self.open, act_tokens, acts: act_tokens || !self.act_certificates.is_empty() }
    }

    fn sessions(&self) -> MutexGuard<'_, BTreeMap<[u8; 32], Session>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether who asks may read.
    pub(super) fn reads(&self, headers: &HeaderMap, peer: &Peer) -> bool {
        let bearer = || bearer(headers).is_some_and(|token| self.reader(token).is_some());
        self.open || bearer() || self.session(headers, peer)
    }

    /// Whose token this is, if it lets one read.
    fn reader(&self, token: &str) -> Option<&str> {
        self.read.whose(token).or_else(|| self.act.whose(token))
    }

    fn session(&self, headers: &HeaderMap, peer: &Peer) -> bool {
        let Some(key) = cookie(headers).map(|id| *blake3::hash(id.as_bytes()).as_bytes()) else {
            return false;
        };
        let sessions = self.sessions();
        sessions.get(&key).is_some_and(|s| s.until > Instant::now() && s.at == origin(headers, peer))
    }

    /// Begins a session of whose token this is; the cookie to set.
    pub(super) fn begin(&self, token: &str, headers: &HeaderMap, peer: &Peer) -> Option<HeaderValue> {
        let who = self.reader(token)?.to_owned();
        let mut bytes = [0; 32];
        rand::rngs::OsRng.try_fill_bytes(&mut bytes).ok()?;
        let id = blake3::Hash::from_bytes(bytes).to_hex();
        let mut sessions = self.sessions();
        sessions.retain(|_, session| session.until > Instant::now());
        if sessions.len() >= MOST_SESSIONS
            && let Some(oldest) = sessions.iter().min_by_key(|(_, s)| s.until).map(|(key, _)| *key)
        {
            sessions.remove(&oldest);
        }
        let session = Session { who, at: origin(headers, peer), until: Instant::now() + SESSION };
        tracing::info!(who = session.who, "a session of the console has begun");
        sessions.insert(*blake3::hash(id.as_bytes()).as_bytes(), session);
        self.cookie(&id, SESSION.as_secs())
    }

    /// Ends the session that is named; the cookie to set.
    pub(super) fn end(&self, headers: &HeaderMap) -> Option<HeaderValue> {
        if let Some(id) = cookie(headers) {
            self.sessions().remove(blake3::hash(id.as_bytes()).as_bytes());
        }
        self.cookie("", 0)
    }

    fn cookie(&self, id: &str, seconds: u64) -> Option<HeaderValue> {
        let secure = if self.secure { "; Secure" } else { "" };
        let text = format!("{COOKIE}={id}; Path=/; HttpOnly; SameSite=Lax; Max-Age={seconds}{secure}");
        HeaderValue::from_str(&text).ok()
    }

    /// Who acts, by this token or by the certificate of the connection; none: nobody who may.
    pub(super) fn actor(&self, token: Option<&str>, peer: &Peer) -> Option<String> {
        if let Some(who) = token.and_then(|token| self.act.whose(token)) {
            return Some(who.to_owned());
        }
        let names = peer.certificate.as_deref().map(tls::names_in).unwrap_or_default();
        names.into_iter().find(|name| self.act_certificates.contains(name))
    }
}

/// Where a request comes from, and with what.
fn origin(headers: &HeaderMap, peer: &Peer) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    hasher.update(peer.address.map_or_else(String::new, |a| a.to_string()).as_bytes());
    hasher.update(b"\0");
    hasher.update(headers.get(header::USER_AGENT).map_or(b"", HeaderValue::as_bytes));
    hasher.finalize()
}

/// The token in `Authorization: Bearer TOKEN`.
pub(super) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
}

fn cookie(headers: &HeaderMap) -> Option<&str> {
    let all = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut pairs = all.flat_map(|value| value.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(name, _)| *name == COOKIE).map(|(_, id)| id)
}

/// Whether a request that changes something comes from a page of this console, or from a program that shows a token: not from a page of
/// another site.
pub(super) fn is_own(headers: &HeaderMap) -> bool {
    let text = |name: &str| headers.get(name).map(|v| v.to_str().unwrap_or("?"));
    if text("sec-fetch-site").is_some_and(|site| site != "same-origin") {
        return false;
    }
    match (text("origin"), text("host")) {
        (Some(origin), Some(host)) => {
            let named = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
            named.is_some_and(|named| named.eq_ignore_ascii_case(host))
        }
        (Some(_), None) => false,
        // Browsers say at least one of both; a program has to show its token where no page can.
        (None, _) => text("sec-fetch-site").is_some() || bearer(headers).is_some(),
    }
}

/// Shared by all requests.
pub(super) type Shared = Arc<Roles>;

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "0123456789abcdef0123";
    const OTHER: &str = "fedcba9876543210fedc";

    fn headers(all: &[(&'static str, &str)]) -> HeaderMap {
        all.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    fn roles(dir: &Path) -> Roles {
        std::fs::write(dir.join("read"), format!("# readers\nann {TOKEN}\n")).unwrap();
        std::fs::write(dir.join("act"), format!("bob {OTHER}\n")).unwrap();
        let config = ConsoleConfig {
            endpoint: "127.0.0.1:0".to_owned(),
            tls: None,
            read_tokens_file: Some(dir.join("read")),
            act_tokens_file: Some(dir.join("act")),
            act_certificates: Vec::new(),
        };
        Roles::try_new(&config, "extensions.console").unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_cookie_reads_from_where_it_was_given_until_it_ends_and_never_acts() {
        let dir = tempfile::tempdir().unwrap();
        let roles = roles(dir.path());
        let at = |n: u8| Peer { address: Some([127, 0, 0, n].into()), ..Peer::default() };
        let browser = headers(&[("user-agent", "a")]);
        assert!(!roles.reads(&browser, &at(1)));
        assert!(roles.begin("0123456789abcdef0124", &browser, &at(1)).is_none(), "a wrong token");
        let set = roles.begin(TOKEN, &browser, &at(1)).unwrap();
        let set = set.to_str().unwrap();
        assert!(set.contains("HttpOnly") && set.contains("SameSite=Lax"), "{set}");
        let id = set.split(';').next().unwrap();
        let with = |agent: &str| headers(&[("cookie", &format!("x=y; {id}")), ("user-agent", agent)]);
        assert!(roles.reads(&with("a"), &at(1)));
        assert!(!roles.reads(&with("b"), &at(1)), "another browser");
        assert!(!roles.reads(&with("a"), &at(2)), "another address");
        assert_eq!(roles.actor(None, &at(1)), None, "no cookie acts");
        assert_eq!(roles.actor(Some(TOKEN), &at(1)), None, "who reads does not act");
        assert_eq!(roles.actor(Some(OTHER), &at(1)).as_deref(), Some("bob"));
        tokio::time::advance(SESSION + Duration::from_secs(1)).await;
        assert!(!roles.reads(&with("a"), &at(1)), "it is over");
        let set = roles.begin(OTHER, &browser, &at(1)).unwrap();
        let id = set.to_str().unwrap().split(';').next().unwrap().to_owned();
        let with = headers(&[("cookie", &id), ("user-agent", "a")]);
        assert!(roles.reads(&with, &at(1)), "who acts reads");
        roles.end(&with);
        assert!(!roles.reads(&with, &at(1)), "it was ended");
    }

    #[tokio::test]
    async fn sessions_are_bounded_and_bearers_need_none() {
        let dir = tempfile::tempdir().unwrap();
        let roles = roles(dir.path());
        let (browser, peer) = (headers(&[]), Peer::default());
        for _ in 0..MOST_SESSIONS + 10 {
            roles.begin(TOKEN, &browser, &peer).unwrap();
        }
        assert_eq!(roles.sessions().len(), MOST_SESSIONS);
        assert!(roles.reads(&headers(&[("authorization", &format!("bearer {TOKEN}"))]), &peer));
        assert!(!roles.reads(&headers(&[("authorization", "Bearer x")]), &peer));
        assert!(!roles.reads(&headers(&[("authorization", &format!("Basic {TOKEN}"))]), &peer));
    }

    #[test]
    fn pages_of_other_sites_change_nothing() {
        let token = format!("Bearer {TOKEN}");
        for (own, all) in [
            (true, vec![("host", "127.0.0.1:8891"), ("origin", "http://127.0.0.1:8891")]),
            (true, vec![("host", "a.b"), ("origin", "https://a.b"), ("sec-fetch-site", "same-origin")]),
            (true, vec![("host", "a.b"), ("sec-fetch-site", "same-origin")]),
            (true, vec![("host", "a.b"), ("authorization", token.as_str())]),
            (false, vec![("host", "a.b")]),
            (false, vec![("host", "a.b"), ("origin", "null")]),
            (false, vec![("host", "a.b"), ("origin", "https://a.b.evil")]),
            (false, vec![("host", "a.b"), ("origin", "https://evil"), ("authorization", token.as_str())]),
            (
                false,
                vec![("host", "a.b"), ("sec-fetch-site", "cross-site"), ("authorization", token.as_str())],
            ),
            (false, vec![("host", "a.b"), ("sec-fetch-site", "same-site")]),
            (false, vec![("host", "a.b"), ("sec-fetch-site", "none")]),
            (false, vec![("origin", "https://a.b")]),
        ] {
            assert_eq!(is_own(&headers(&all)), own, "{all:?}");
        }
    }

    #[test]
    fn files_without_good_tokens_are_refused_with_the_line_and_without_the_token() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t");
        for (text, expected) in
            [("", "no token"), ("ann\n", "line 1 is not"), ("#\nann short\n", "line 2 has less than 16")]
        {
            std::fs::write(&path, text).unwrap();
            let error = Tokens::load("k", &path).unwrap_err().message;
            assert!(error.contains(expected) && !error.contains("short"), "{error}");
        }
        assert!(Tokens::load("k", &dir.path().join("none")).is_err());
    }

    #[test]
    fn an_address_that_others_reach_needs_tls_and_a_token_or_certificates() {
        let tls = ConsoleTls { cert_file: "c".into(), key_file: "k".into(), client_ca_file: None };
        let with = ConsoleTls { client_ca_file: Some("ca".into()), ..tls.clone() };
        let base = ConsoleConfig {
            endpoint: "0.0.0.0:8891".to_owned(),
            tls: None,
            read_tokens_file: None,
            act_tokens_file: None,
            act_certificates: Vec::new(),
        };
        let of = |config: &ConsoleConfig| config.validate("extensions.console").len();
        assert_eq!(of(&base), 2);
        assert_eq!(of(&ConsoleConfig { tls: Some(tls.clone()), ..base.clone() }), 1);
        assert_eq!(of(&ConsoleConfig { read_tokens_file: Some("r".into()), ..base.clone() }), 1);
        assert_eq!(of(&ConsoleConfig { tls: Some(with), ..base.clone() }), 0);
        let both = ConsoleConfig { tls: Some(tls), read_tokens_file: Some("r".into()), ..base.clone() };
        assert_eq!(of(&both), 0);
        assert_eq!(of(&ConsoleConfig { endpoint: "127.0.0.1:1".to_owned(), ..base.clone() }), 0);
        let local = ConsoleConfig { endpoint: "[::1]:1".to_owned(), ..base };
        assert_eq!(of(&ConsoleConfig { act_certificates: vec!["ann".to_owned()], ..local }), 1);
    }
}
