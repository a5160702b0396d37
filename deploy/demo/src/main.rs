//! The demo: three services on board, an agent, a ground station, and contacts of seconds.
//!
//! [`options`] says what is wanted; [`stage`] makes the directory, certificates and configurations; [`child`] runs the agent and
//! the ground station as processes of this same program; [`services`] make telemetry; [`backends`] finds where it goes, [`logs`] is
//! one; [`radio`] is the link and [`passes`] opens contacts; [`observe`] asks both programs where everything is; [`report`] shows it;
//! [`run`] is the course and [`story`] its first part.

mod backends;
mod child;
mod logs;
mod observe;
mod options;
mod passes;
mod radio;
mod report;
mod run;
mod services;
mod stage;
mod story;

use std::process::ExitCode;

use clap::Parser;

use crate::options::{Options, Part};

/// The agent's own choice, so that its memory limiter sees here what it sees there.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let options = Options::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&format!("cannot start: {error}")),
    };
    match options.part {
        Some(Part::Agent { config }) => runtime.block_on(Box::pin(child::agent(config))),
        Some(Part::Ground { config }) => runtime.block_on(Box::pin(child::ground(config))),
        None => match runtime.block_on(Box::pin(run::run(options))) {
            Ok(code) => code,
            Err(error) => fail(&format!("{error:#}")),
        },
    }
}

fn fail(message: &str) -> ExitCode {
    report::say_error(&format!("demo: {message}\n"));
    ExitCode::FAILURE
}
