//! What can go wrong with the engine that stations share.

use tokio_postgres::error::SqlState;

/// Why the shared ledger did not do something.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// It answers and must not be used.
    #[error("PostgreSQL cannot keep the ledger: {cause}; {remedy}")]
    Refused {
        /// What is so.
        cause: String,
        /// What to do about it.
        remedy: String,
    },
    /// It does not answer, or not now.
    #[error("PostgreSQL does not answer: {0}; the satellites keep what is not committed")]
    Away(String),
    /// The station works without it for now; why, as health says it.
    #[error("{0}")]
    CutOff(String),
    /// Others were at the same rows: the same again may work at once.
    #[error("PostgreSQL took another transaction first: {0}")]
    Conflict(String),
    /// It does not know what was asked.
    #[error("PostgreSQL refused a statement: {0}; this is a fault of this program or of the schema")]
    Statement(String),
    /// Another worker exports in this one's place.
    #[error(
        "the export of lane {lane} of satellite number {satellite} has gone over to another worker, since this one was \
         not heard of in time; it takes another lane"
    )]
    TakenOver {
        /// The satellite.
        satellite: u32,
        /// The lane.
        lane: u8,
    },
    /// A station's own file must not come into the shared ledger now.
    #[error("the spool was not migrated: {cause}; {remedy}")]
    NotMigrated {
        /// What is so.
        cause: String,
        /// What to do about it.
        remedy: &'static str,
    },
    /// The station's own file is in a shared ledger since.
    #[error(
        "this station's spool was moved into a shared ledger, and is {0} since: write storage.kind: postgres to go on there, or move \
         that file away to begin a ledger of its own"
    )]
    HasMoved(String),
    /// The shared ledger does not have this.
    #[error("{0}")]
    NotHere(&'static str),
}

impl EngineError {
    pub(super) fn refused(cause: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::Refused { cause: cause.into(), remedy: remedy.into() }
    }

    /// Whether trying the same later may help.
    pub const fn is_retryable(&self) -> bool {
        matches!(self, Self::Away(_) | Self::CutOff(_) | Self::Conflict(_) | Self::Refused { .. })
    }
}

/// The text of an error with what is behind it.
fn told(error: &tokio_postgres::Error) -> String {
    if let Some(db) = error.as_db_error() {
        return format!("{} ({})", db.message(), db.code().code());
    }
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(behind) = source {
        text = format!("{text}: {behind}");
        source = behind.source();
    }
    text
}

/// What the server did not say itself: a certificate that does not fit is no matter of waiting.
fn without_code(error: &tokio_postgres::Error, text: String) -> EngineError {
    const TLS: &str = "see storage.tls: ca_file must have the authority of the server's certificate, and server_name the name in it";
    let mut source = std::error::Error::source(error);
    while let Some(behind) = source {
        let io = behind.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        if io
            .and_then(|inner| inner.downcast_ref())
            .is_some_and(|e| matches!(e, rustls::Error::InvalidCertificate(_)))
        {
            return EngineError::refused(text, TLS);
        }
        source = behind.source();
    }
    if text.contains("does not support TLS") {
        return EngineError::refused(text, "set ssl = on there, or write storage.tls: {insecure: true}");
    }
    EngineError::Away(text)
}

impl From<tokio_postgres::Error> for EngineError {
    fn from(error: tokio_postgres::Error) -> Self {
        let text = told(&error);
        let Some(code) = error.code() else { return without_code(&error, text) };
        match *code {
            SqlState::T_R_SERIALIZATION_FAILURE | SqlState::T_R_DEADLOCK_DETECTED => Self::Conflict(text),
            // It was waited for.
            SqlState::LOCK_NOT_AVAILABLE => Self::Away(format!("{text}: another session holds a lock there")),
            SqlState::INVALID_PASSWORD | SqlState::INVALID_AUTHORIZATION_SPECIFICATION => {
                Self::refused(text, "check storage.user, its password, and pg_hba.conf on the servers")
            }
            SqlState::INVALID_CATALOG_NAME => {
                Self::refused(text, "create the database that storage.database names")
            }
            // Without rights on any schema of the search path there is none to make tables in.
            SqlState::INSUFFICIENT_PRIVILEGE | SqlState::INVALID_SCHEMA_NAME => {
                Self::refused(text, "the role of storage.user must own the database and its schema")
            }
            SqlState::READ_ONLY_SQL_TRANSACTION => Self::Away(format!("{text}: this server takes no writes")),
            SqlState::TOO_MANY_CONNECTIONS => Self::Away(format!(
                "{text}: raise the limit of the server or of the role, or lower storage.connections of the stations"
            )),
            SqlState::DISK_FULL => {
                Self::Away(format!("{text}: free some space on the volume of the server's data"))
            }
            _ => match &code.code()[..2] {
                // Connection, rolled back, resources, operator, system.
                "08" | "40" | "53" | "57" | "58" => Self::Away(text),
                _ => Self::Statement(text),
            },
        }
    }
}
