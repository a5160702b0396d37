//! A program in a real terminal: a pseudo-terminal of a given size, and the screen that a person would see.

use std::fs::File;
use std::io::{Read, Write};
use std::num::NonZeroU16;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::fs::{Mode, OFlags, open};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use tokio::process::{Child, Command};

/// How long a program may take to end.
const END: Duration = Duration::from_secs(20);

/// Columns and rows.
pub type Size = (u16, u16);

/// See the module. The program ends with it.
pub struct Terminal {
    side: Arc<OwnedFd>,
    screen: Arc<Mutex<vt100::Parser>>,
    written: Arc<Mutex<Vec<u8>>>,
    child: Child,
}

impl Terminal {
    /// Starts `program` with `args` in a terminal that is its controlling one.
    pub fn start(program: &Path, args: &[&str], size: Size) -> Self {
        let side = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&side).unwrap();
        unlockpt(&side).unwrap();
        let name = ptsname(&side, Vec::new()).unwrap();
        let other = || {
            let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
            Stdio::from(open(name.as_c_str(), flags, Mode::empty()).unwrap())
        };
        let screen = Arc::new(Mutex::new(vt100::Parser::new(cells(size.1), cells(size.0), 0)));
        tcsetwinsize(&side, winsize(size)).unwrap();
        let mut command = Command::new("setsid");
        command.args(["--ctty", "--wait"]).arg(program).args(args).env("TERM", "xterm-256color");
        command.stdin(other()).stdout(other()).stderr(other()).kill_on_drop(true);
        let child = command.spawn().unwrap();
        // It keeps the other side open as long as it lives.
        drop(command);
        let side = Arc::new(side);
        let written = Arc::new(Mutex::new(Vec::new()));
        let (mut from, shown, kept) =
            (File::from(side.try_clone().unwrap()), Arc::clone(&screen), Arc::clone(&written));
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            // An error means that no program has the other side any more.
            while let Ok(count @ 1..) = from.read(&mut bytes) {
                kept.lock().unwrap().extend_from_slice(&bytes[..count]);
                shown.lock().unwrap().process(&bytes[..count]);
            }
        });
        Self { side, screen, written, child }
    }

    /// Everything that was written, also what is not shown any more.
    pub fn written(&self) -> String {
        String::from_utf8_lossy(&self.written.lock().unwrap()).into_owned()
    }

    /// The lines that are shown, without blanks at their ends.
    pub fn lines(&self) -> Vec<String> {
        let parser = self.screen.lock().unwrap();
        let columns = parser.screen().size().1;
        parser.screen().rows(0, columns.get()).map(|line| line.trim_end().to_owned()).collect()
    }

    /// What follows `label` at the beginning of a line.
    pub fn line(&self, label: &str) -> Result<String, String> {
        let lines = self.lines();
        let found = lines.iter().find_map(|line| line.strip_prefix(label));
        found.map(|rest| rest.trim().to_owned()).ok_or_else(|| format!("no {label} in\n{}", lines.join("\n")))
    }

    /// Whether the program has a screen of its own, beside what was there before.
    pub fn is_full_screen(&self) -> bool {
        self.screen.lock().unwrap().screen().alternate_screen()
    }

    /// Whether the cursor is hidden.
    pub fn hides_cursor(&self) -> bool {
        self.screen.lock().unwrap().screen().hide_cursor()
    }

    /// Types on the keyboard.
    pub fn press(&self, keys: &[u8]) {
        (&File::from(self.side.try_clone().unwrap())).write_all(keys).unwrap();
    }

    /// The window gets another size.
    pub fn resize(&self, size: Size) {
        self.screen.lock().unwrap().set_size(cells(size.1), cells(size.0));
        tcsetwinsize(&self.side, winsize(size)).unwrap();
    }

    /// Waits for the program's end.
    pub async fn end(&mut self) -> ExitStatus {
        let ended = tokio::time::timeout(END, self.child.wait()).await;
        ended.unwrap_or_else(|_| panic!("it does not end:\n{}", self.lines().join("\n"))).unwrap()
    }
}

const fn winsize((columns, rows): Size) -> Winsize {
    Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }
}

const fn cells(count: u16) -> NonZeroU16 {
    NonZeroU16::new(count).unwrap()
}
