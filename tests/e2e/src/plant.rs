//! Panics on demand: a program panics in the task that a file names.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use perigee_shared::env::Env;

/// Where the files are looked for.
pub const PLANTS: &str = "PERIGEE_E2E_PLANTS";

fn file(directory: &Path, task: &str) -> PathBuf {
    directory.join(task.replace('/', "_"))
}

/// The real machine, where a task panics when its file is there. The file is gone then.
pub fn planting() -> Env {
    let mut env = Env::production();
    if let Some(directory) = std::env::var_os(PLANTS).map(PathBuf::from) {
        env.plant = Some(Arc::new(move |task| {
            let file = file(&directory, task);
            Box::pin(async move {
                while std::fs::remove_file(&file).is_err() {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            })
        }));
    }
    env
}

/// Has `task` of programs that look into `directory` panic.
pub fn plant(directory: &Path, task: &str) {
    std::fs::write(file(directory, task), []).unwrap();
}

/// Whether it has not yet.
pub fn is_planted(directory: &Path, task: &str) -> bool {
    file(directory, task).exists()
}
