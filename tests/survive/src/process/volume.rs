//! A file system of its own that can really fail: ext4 without a journal on a sparse image, loop-mounted, the image on a small
//! tmpfs. When the tmpfs is full, the write-back of newly allocated blocks fails, as on a thin volume or a dying card.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail, ensure};

/// How long a file system may stay busy after its last process was killed.
const BUSY: Duration = Duration::from_secs(10);

/// Whether this machine lets us mount; why not, if not.
pub fn can_mount() -> Result<(), String> {
    if !nix::unistd::geteuid().is_root() {
        return Err("needs root, to mount file systems".to_owned());
    }
    let directory = tempfile::tempdir().map_err(|e| e.to_string())?;
    Volume::new(directory.path(), 16, 64).map(drop).map_err(|e| format!("cannot mount: {e:#}"))
}

fn run(program: &str, args: &[&str]) -> anyhow::Result<()> {
    let output = Command::new(program).args(args).output().with_context(|| program.to_owned())?;
    ensure!(
        output.status.success(),
        "{program} {args:?}: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}

/// See the module. Everything is unmounted when this goes.
pub struct Volume {
    /// Where the tmpfs is.
    below: PathBuf,
    /// Where the file system is.
    path: PathBuf,
    mounted: bool,
    below_mounted: bool,
}

impl Volume {
    /// A tmpfs of `below` MiB and on it an image of `size` MiB, mounted in `directory`.
    pub fn new(directory: &Path, below: u64, size: u64) -> anyhow::Result<Self> {
        let mut volume = Self {
            below: directory.join("below"),
            path: directory.join("volume"),
            mounted: false,
            below_mounted: false,
        };
        std::fs::create_dir_all(&volume.below)?;
        std::fs::create_dir_all(&volume.path)?;
        let options = format!("size={below}m");
        run("mount", &["-t", "tmpfs", "-o", &options, "tmpfs", text(&volume.below)?])?;
        volume.below_mounted = true;
        let image = volume.image();
        File::create(&image)?.set_len(size << 20)?;
        run("mkfs.ext4", &["-q", "-F", "-O", "^has_journal", "-N", "256", "-m", "0", text(&image)?])?;
        volume.mount()?;
        Ok(volume)
    }

    fn image(&self) -> PathBuf {
        self.below.join("image")
    }

    /// The file system.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Mounts it.
    pub fn mount(&mut self) -> anyhow::Result<()> {
        run("mount", &["-o", "loop", text(&self.image())?, text(&self.path)?])?;
        self.mounted = true;
        Ok(())
    }

    /// Unmounts it: the page cache is gone after this, as after a power cut. Whoever used it must have been killed.
    pub async fn unmount(&mut self) -> anyhow::Result<()> {
        let path = text(&self.path)?.to_owned();
        e2e::within(BUSY, async || run("umount", &[&path]).map_err(|e| e.to_string()))
            .await
            .map_err(anyhow::Error::msg)?;
        self.mounted = false;
        Ok(())
    }

    /// Fills what lies below: from now on no block can be allocated.
    pub fn fill(&self) -> anyhow::Result<()> {
        let mut filler = File::create(self.below.join("filler"))?;
        for size in [1 << 20, 1 << 12] {
            let block = vec![0x5a; size];
            loop {
                match filler.write_all(&block) {
                    Ok(()) => {}
                    Err(e) if e.kind() == std::io::ErrorKind::StorageFull => break,
                    Err(e) => bail!("the filler: {e}"),
                }
            }
        }
        Ok(())
    }

    /// Frees it again.
    pub fn free(&self) -> anyhow::Result<()> {
        Ok(std::fs::remove_file(self.below.join("filler"))?)
    }

    /// Fills the file system itself, as a neighbour's logs do.
    pub fn fill_inside(&self) -> anyhow::Result<()> {
        let mut filler = File::create(self.path.join("filler"))?;
        for size in [1 << 20, 1 << 12] {
            let block = vec![0x5a; size];
            while filler.write_all(&block).is_ok() {}
        }
        // What was taken is taken: a full file system says so at once, not at its next write-back.
        let _ = filler.sync_all();
        Ok(())
    }

    /// Frees the file system.
    pub fn free_inside(&self) -> anyhow::Result<()> {
        Ok(std::fs::remove_file(self.path.join("filler"))?)
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        for (mounted, path) in [(self.mounted, &self.path), (self.below_mounted, &self.below)] {
            if mounted
                && let Some(path) = path.to_str()
                && run("umount", &[path]).is_err()
            {
                // A process that is being killed may hold it a moment longer.
                let _ = run("umount", &["-l", path]);
            }
        }
    }
}

fn text(path: &Path) -> anyhow::Result<&str> {
    path.to_str().context("a path that is not text")
}
