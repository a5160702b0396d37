//! `ground-station pki`

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::bail;
use clap::{Args, Subcommand};
use perigee_shared::env::Env;

use super::{say, say_json};
use crate::pki::{Pki, Role};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make an authority for satellites and one for stations.
    Init {
        #[command(flatten)]
        directory: Directory,
        /// The domain in every identity: spiffe://DOMAIN/satellite/ID
        #[arg(long)]
        domain: String,
        /// Replace authorities that are there.
        #[arg(long)]
        force: bool,
    },
    /// Issue a certificate. One that is there is never replaced.
    Issue {
        /// What it is for.
        role: Role,
        /// The satellite's or station's id: 1 to 63 of a-z, 0-9 and -.
        id: String,
        #[command(flatten)]
        directory: Directory,
        /// How long it is valid.
        #[arg(long, default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=36500))]
        days: u32,
        /// A certificate signing request in PEM: its key stays where it was made.
        #[arg(long, value_name = "FILE")]
        csr: Option<PathBuf>,
        /// Of a station: another name that satellites may call it by, as of a second antenna; may be repeated.
        #[arg(long = "name", value_name = "NAME")]
        names: Vec<String>,
    },
    /// Revoke a certificate by its serial number, or all of a satellite or a station.
    Revoke {
        /// A serial number, or `satellite` or `station` followed by an id.
        #[arg(num_args = 1..=2, required = true, value_names = ["SERIAL|satellite|station", "ID"])]
        what: Vec<String>,
        #[command(flatten)]
        directory: Directory,
    },
    /// Show what was issued.
    List {
        #[command(flatten)]
        directory: Directory,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Args)]
pub(super) struct Directory {
    /// The directory of the authorities.
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
}

pub(super) fn run(command: Command) -> anyhow::Result<ExitCode> {
    let env = Env::production();
    match command {
        Command::Init { directory, domain, force } => {
            Pki::init(&directory.dir, &domain, force, &env)?;
            say(&format!(
                "authorities for satellites and stations of {domain} are in {}\n",
                directory.dir.display()
            ));
        }
        Command::Issue { role: Role::Satellite, names, .. } if !names.is_empty() => {
            bail!("--name is for stations: a satellite has one id")
        }
        Command::Issue { role, id, directory, days, csr, names } => {
            let mut pki = Pki::open(&directory.dir, &env)?.also_named(names)?;
            match csr {
                Some(csr) => say(&format!("{}\n", pki.issue_to(role, &id, days, &csr)?.display())),
                None => {
                    let (certificate, key) = pki.issue(role, &id, days)?;
                    say(&format!("{}\n{}\n", certificate.display(), key.display()));
                }
            }
        }
        Command::Revoke { what, directory } => {
            let mut pki = Pki::open(&directory.dir, &env)?;
            let revoked = match what.as_slice() {
                [serial] => pki.revoke_serial(serial)?,
                [role, id] if role == "satellite" => pki.revoke(Role::Satellite, id)?,
                [role, id] if role == "station" => pki.revoke(Role::Station, id)?,
                _ => bail!("write `pki revoke SERIAL`, `pki revoke satellite ID` or `pki revoke station ID`"),
            };
            for serial in revoked {
                say(&format!("revoked {serial}\n"));
            }
        }
        Command::List { directory, json } => {
            let pki = Pki::open(&directory.dir, &env)?;
            if json {
                say_json(&pki.issued())?;
            } else {
                list(&pki);
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn list(pki: &Pki) {
    let now = Env::production().unix_nano() / 1_000_000_000;
    say(&format!("{:<32}  {:<9}  {:<20}  state\n", "serial", "role", "id"));
    for issued in pki.issued() {
        let state = match issued.revoked_unix {
            Some(_) => "revoked".to_owned(),
            None if issued.not_after_unix < now => "expired".to_owned(),
            None => format!("valid for {} days", (issued.not_after_unix - now) / 86_400),
        };
        let role = issued.role.to_string();
        say(&format!("{:<32}  {role:<9}  {:<20}  {state}\n", issued.serial, issued.id));
    }
}
