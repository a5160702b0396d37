//! Small files with a checksum beside a store: what is still known when the store itself cannot be opened.
//!
//! ```text
//! file = BLAKE3 of the rest (64 hexadecimal digits) | newline | JSON
//! ```

use std::io;
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::env::Env;

/// Bytes before the JSON.
const HEAD: usize = 65;

/// The content of the file at `path`; `None` when there is none, or its checksum does not hold.
pub fn read<T: DeserializeOwned>(env: &Env, path: &Path) -> Option<T> {
    let content = env.store.read(path).ok()?;
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
    let json = serde_json::to_vec(value)?;
    let mut content = blake3::hash(&json).to_hex().as_bytes().to_vec();
    content.push(b'\n');
    content.extend(json);
    env.store.replace(path, &content)
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
