//! Payloads in pieces, since redb's pages are powers of two: a value of 2^k bytes takes twice its size in writes, one that is a
//! little smaller takes no more than its own (redb 4.6: 65,000 bytes cost 1.4 times their size, 65,536 bytes 2.4 times).

/// The largest piece: 256 KiB less 1 KiB.
pub const LARGEST_PIECE: usize = 261_120;

/// Sizes of pieces, each somewhat less than a power of two. What is left at the end is stored as it is.
const SIZES: [usize; 6] = [LARGEST_PIECE, 130_048, 64_512, 31_744, 15_360, 7_168];

/// Cuts a value into pieces that redb stores without waste.
pub fn pieces(mut value: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        if value.is_empty() {
            return None;
        }
        let (piece, rest) = value.split_at(next_piece(value.len()));
        value = rest;
        Some(piece)
    })
}

/// The size of the piece with which a value of `left` bytes begins.
pub fn next_piece(left: usize) -> usize {
    SIZES.into_iter().find(|size| *size <= left).unwrap_or(left)
}

/// Puts pieces together again, in the order in which a range of a table gives them. `expected` is how many bytes there should be.
pub fn join<'a, K: redb::Key + 'static>(
    rows: redb::Range<'a, K, &'static [u8]>,
    expected: usize,
) -> Result<Vec<u8>, redb::StorageError> {
    let mut out = Vec::with_capacity(expected);
    for row in rows {
        out.extend_from_slice(row?.1.value());
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_add_up_and_leave_room_in_their_page() {
        for len in [0, 1, 7_167, 7_168, 65_536, 150_000, 1 << 20] {
            let value: Vec<u8> = (0..len).map(|n| n as u8).collect();
            let all: Vec<&[u8]> = pieces(&value).collect();
            assert_eq!(all.concat(), value);
            for piece in all.into_iter().filter(|p| p.len() >= 7_168) {
                assert!(piece.len().next_power_of_two() - piece.len() >= 1000, "{}", piece.len());
            }
        }
    }
}
