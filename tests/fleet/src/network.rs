//! A network of a test's own, in which each server is in a namespace with one cable, which can be pulled.
//!
//! Nothing of the machine's network is touched, and all of it goes with the processes that are in it.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use nix::sched::{CloneFlags, unshare};

/// Runs `ip` with these arguments; what it said, when it failed.
fn ip(arguments: &str) -> Result<(), String> {
    run(Command::new("ip").args(arguments.split(' ')))
}

fn run(command: &mut Command) -> Result<(), String> {
    match command.output() {
        Ok(out) if out.status.success() => Ok(()),
        Ok(out) => Err(format!("{command:?}: {}", String::from_utf8_lossy(&out.stderr).trim())),
        Err(error) => Err(format!("{command:?}: {error}")),
    }
}

/// Gives the calling thread, and what it starts from now on, a network of their own.
pub fn enter() -> Result<(), String> {
    unshare(CloneFlags::CLONE_NEWNET).map_err(|e| format!("needs root, for a network of its own ({e})"))?;
    for step in [
        "link set lo up",
        "link add servers type bridge",
        "address add 10.77.0.1/24 dev servers",
        "link set servers up",
    ] {
        ip(step)?;
    }
    Ok(())
}

/// Why there cannot be such a network, if so.
pub fn can_enter() -> Result<(), String> {
    std::thread::spawn(enter).join().unwrap_or_else(|_| Err("`ip` cannot be run".to_owned()))
}

/// The namespace of one server.
pub struct Home {
    /// Keeps it; ends when this process does.
    holder: Child,
    number: usize,
}

impl Home {
    /// In the network of the calling thread.
    pub fn new(number: usize) -> Self {
        let mut holder = Command::new("unshare")
            .args(["--net", "sh", "-c", "echo; read -r _"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // It has its namespace when it says something.
        BufReader::new(holder.stdout.take().unwrap()).read_line(&mut String::new()).unwrap();
        let home = Self { holder, number };
        let holder = home.holder.id();
        ip(&format!("link add cable{number} type veth peer name inside netns {holder}")).unwrap();
        ip(&format!("link set cable{number} master servers up")).unwrap();
        let inside = format!("address add {}/24 dev inside", home.address());
        for step in ["link set lo up", &inside, "link set inside up"] {
            run(home.command("ip").args(step.split(' '))).unwrap();
        }
        home
    }

    /// Where others reach it.
    pub fn address(&self) -> String {
        format!("10.77.0.{}", 10 + self.number)
    }

    /// Runs a program there.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--net", "--target", &self.holder.id().to_string(), "--", program]);
        command
    }

    /// Pulls the cable, or puts it back.
    pub fn plug(&self, is_in: bool) {
        ip(&format!("link set cable{} {}", self.number, if is_in { "up" } else { "down" })).unwrap();
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}
