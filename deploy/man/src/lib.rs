//! Shell completions and man pages of both programs, made from the definitions of their command lines. They are made here and
//! not by the programs, whose size on board counts.

use std::io;
use std::path::Path;

use clap::{Command, CommandFactory};
use clap_complete::Shell;

const SHELLS: [Shell; 3] = [Shell::Bash, Shell::Zsh, Shell::Fish];

/// The command lines of both programs.
pub fn programs() -> [Command; 2] {
    [space_agent::cli::Cli::command(), ground_station::commands::Cli::command()]
}

/// Writes `man1/PROGRAM[-COMMAND…].1` and `completions/{PROGRAM.bash,_PROGRAM,PROGRAM.fish}` under `out`.
pub fn write(out: &Path) -> io::Result<()> {
    let (pages, completions) = (out.join("man1"), out.join("completions"));
    std::fs::create_dir_all(&pages)?;
    std::fs::create_dir_all(&completions)?;
    for program in programs() {
        let name = program.get_name().to_owned();
        for shell in SHELLS {
            clap_complete::generate_to(shell, &mut program.clone(), &name, &completions)?;
        }
        clap_mangen::generate_to(without_help(program), &pages)?;
    }
    Ok(())
}

/// Without the commands `help`, each of which would have a page for every other command.
fn without_help(command: Command) -> Command {
    command.disable_help_subcommand(true).mut_subcommands(without_help)
}
