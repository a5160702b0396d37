//! Small files with a checksum beside a store: what is still known when the store itself cannot be opened.
//!
//! ```text
//! file = BLAKE3 of the rest (64 hexadecimal digits) | newline | JSON
//! ```

use std::io;
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::beside;
use crate::env::Env;
use crate::files::is_missing;

/// Bytes before the JSON.
const HEAD: usize = 65;

/// The content of the file at `path`; `None` when there is none, or its checksum does not hold.
pub fn read<T: DeserializeOwned>(env: &Env, path: &Path) -> Option<T> {
    let content = match env.store.read(path) {
        Ok(content) => content,
        Err(error) => {
            if !is_missing(&error) {
                tracing::error!(%error, path = %path.display(), "the file cannot be read and is not used");
            }
            return None;
        }
    };
    let found = content.split_at_checked(HEAD).filter(|(head, json)| {
        head[..HEAD - 1] == *blake3::hash(json).to_hex().as_bytes() && head[HEAD - 1] == b'\n'
    });
    let value = found.and_then(|(_, json)| serde_json::from_slice(json).ok());
    if value.is_none() {
        tracing::error!(path = %path.display(), "the file is damaged and is not used");
    }
    value
}

/// Replaces the file at `path`: after a crash it has either the old content or the new.
pub fn write<T: Serialize>(env: &Env, path: &Path, value: &T) -> io::Result<()> {
    env.store.replace(path, &content(value)?)
}

/// The same for what the next process must know: where the medium does not take it, it stands in its place all the same. The page cache
/// outlives the process; after a power cut there is the old content, the new, or none that can be read.
pub fn write_at_least_for_now<T: Serialize>(env: &Env, path: &Path, value: &T) -> io::Result<()> {
    let content = content(value)?;
    env.store.replace(path, &content).or_else(|error| {
        let new = beside(path, ".new");
        // A part of it would take the place of an earlier one that is whole.
        match env.store.read(&new) {
            Ok(found) if found == content => env.store.rename(&new, path),
            _ => Err(error),
        }
    })
}

fn content<T: Serialize>(value: &T) -> io::Result<Vec<u8>> {
    let json = serde_json::to_vec(value)?;
    let mut content = blake3::hash(&json).to_hex().as_bytes().to_vec();
    content.push(b'\n');
    content.extend(json);
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_bit_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mirror.json");
        let env = Env::production();
        assert_eq!(read::<Vec<u64>>(&env, &path), None, "there is none yet");
        write(&env, &path, &vec![1u64, 2, 3]).unwrap();
        assert_eq!(read::<Vec<u64>>(&env, &path), Some(vec![1, 2, 3]));
        let whole = std::fs::read(&path).unwrap();
        for bit in 0..whole.len() * 8 {
            let mut flipped = whole.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(&path, flipped).unwrap();
            assert_eq!(read::<Vec<u64>>(&env, &path), None, "bit {bit}");
        }
    }
}
