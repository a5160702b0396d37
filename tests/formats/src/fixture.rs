//! Finding, unpacking and comparing the files under `data/`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use perigee_shared::compress::{Encoding, decompress_capped};
use serde::Serialize;
use serde_json::Value;

/// No fixture is larger, unpacked.
const LARGEST: usize = 16 << 20;

/// Differences that one failure names.
const SHOWN: usize = 20;

/// The file `name` under `data/`.
pub fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("data").join(name)
}

/// The bytes of the file `name` under `data/`.
pub fn read(name: &str) -> Result<Vec<u8>> {
    std::fs::read(path(name)).with_context(|| format!("tests/formats/data/{name}"))
}

/// Unpacks `NAME.zst` from `data/` to `to`.
pub fn unpack(name: &str, to: &Path) -> Result<()> {
    let packed = read(&format!("{name}.zst"))?;
    std::fs::write(to, decompress_capped(Encoding::Zstd, &packed, LARGEST)?)?;
    Ok(())
}

/// The expected content in `NAME.json`.
pub fn expected(name: &str) -> Result<Value> {
    let name = format!("{name}.json");
    serde_json::from_slice(&read(&name)?).with_context(|| format!("tests/formats/data/{name}"))
}

/// Fails unless `found` is what `NAME.json` says.
///
/// # Panics
///
/// With the first differences. The whole of what was found is then in a file of the temporary directory, for those who add a
/// fixture: they check it by hand and commit it.
pub fn assert_is(name: &str, found: &impl Serialize) {
    let found = serde_json::to_value(found).expect("plain values");
    let expected = expected(name).unwrap_or(Value::Null);
    let differences = differences(&expected, &found);
    if !differences.is_empty() {
        let file = std::env::temp_dir().join(format!("formats-{}.json", name.replace('/', "-")));
        std::fs::write(&file, format!("{found:#}\n")).expect("the temporary directory");
        panic!(
            "{name} is read otherwise than it was written ({} differences):\n{}\nall that was found: {}",
            differences.len(),
            differences[..differences.len().min(SHOWN)].join("\n"),
            file.display(),
        );
    }
}

/// Where the two differ: path, expected value, found value.
pub fn differences(expected: &Value, found: &Value) -> Vec<String> {
    let mut out = Vec::new();
    collect("", expected, found, &mut out);
    out
}

fn collect(at: &str, expected: &Value, found: &Value, out: &mut Vec<String>) {
    match (expected, found) {
        (Value::Object(a), Value::Object(b)) => {
            let mut keys: Vec<&String> = a.keys().chain(b.keys()).collect();
            keys.sort();
            keys.dedup();
            let of = |map: &serde_json::Map<String, Value>, key| map.get(key).cloned().unwrap_or_default();
            for key in keys {
                collect(&format!("{at}.{key}"), &of(a, key), &of(b, key), out);
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (n, (a, b)) in a.iter().zip(b).enumerate() {
                collect(&format!("{at}[{n}]"), a, b, out);
            }
        }
        (a, b) if a == b => {}
        (a, b) => out.push(format!("  {at}: expected {}, found {}", shortened(a), shortened(b))),
    }
}

fn shortened(value: &Value) -> String {
    let mut text = value.to_string();
    if text.len() > 200 {
        text = text.chars().take(200).chain("...".chars()).collect();
    }
    text
}

/// `bytes` in hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// The inverse of [`hex`].
pub fn unhex(digits: &str) -> Result<Vec<u8>> {
    let pair = |at: usize| -> Result<u8> {
        let pair = digits.get(at..at + 2).context("an odd number of digits")?;
        Ok(u8::from_str_radix(pair, 16)?)
    };
    (0..digits.len()).step_by(2).map(pair).collect()
}
