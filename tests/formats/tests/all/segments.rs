//! Headers and payloads of every codec.

use formats::fixture::{assert_is, read};
use formats::items::{Content, RequestDigest, digest};
use formats::segment::{HeaderView, requests};
use perigee_shared::segment::{Base, Header, Request, hash, learn};
use serde::Serialize;

/// A segment as it is pinned.
#[derive(Serialize)]
struct Pinned {
    header: HeaderView,
    requests: Vec<RequestDigest>,
}

fn header(name: &str) -> (Header, Vec<u8>) {
    let bytes = read(&format!("segments/{name}.header")).unwrap();
    let header = Header::from_bytes(&bytes).unwrap();
    assert_eq!(header.to_bytes(), bytes, "{name}: a header is written as it was");
    let payload = read(&format!("segments/{name}.payload")).unwrap();
    assert_eq!(hash(&payload), header.hash, "{name}");
    (header, payload)
}

fn assert_decodes(name: &str, base: Option<&Base>) {
    let (header, payload) = header(name);
    let requests: Vec<Request> = requests(&header, &payload, base).unwrap();
    let digests = requests.iter().map(|r| digest(r.signal, &r.body)).collect();
    assert_is(&format!("segments/{name}"), &Pinned { header: (&header).into(), requests: digests });
}

/// Each depends on the one before.
fn assert_decode_link_by_link(names: &[&str]) {
    let mut base = None;
    for name in names {
        assert_decodes(name, base.as_ref());
        let (header, payload) = header(name);
        base = learn(&header, &payload, base).unwrap();
    }
}

#[test]
fn a_payload_of_codec_1_decodes_to_the_requests_that_were_put_into_it() {
    assert_decodes("rows", None);
    assert_decodes("rows-arbitrary", None);
}

#[test]
fn a_payload_of_codec_2_decodes_to_the_requests_that_it_always_did() {
    assert_decodes("columns", None);
    assert_decodes("columns-arbitrary", None);
}

#[test]
fn payloads_of_codec_3_decode_to_the_requests_that_were_put_into_them() {
    assert_decode_link_by_link(&["text-1", "text-2"]);
}

#[test]
fn payloads_of_codec_4_decode_to_the_requests_that_were_put_into_them() {
    assert_decode_link_by_link(&["lines-1", "lines-2"]);
}

#[test]
fn payloads_of_codec_5_decode_to_the_requests_that_were_put_into_them() {
    assert_decode_link_by_link(&["near-1", "near-2"]);
}

#[test]
fn payloads_of_codec_6_decode_to_the_requests_that_were_put_into_them() {
    assert_decode_link_by_link(&["recent-1", "recent-2"]);
}

#[test]
fn payloads_of_codec_7_decode_to_the_requests_that_were_put_into_them() {
    assert_decode_link_by_link(&["steps-1", "steps-2"]);
}

#[test]
fn payloads_of_codec_8_decode_to_the_requests_that_were_put_into_them() {
    assert_decode_link_by_link(&["large-1", "large-2"]);
}

#[test]
fn a_chain_of_bases_decodes_link_by_link() {
    assert_decode_link_by_link(&["chain-1", "chain-2", "chain-3", "chain-4"]);
}

#[test]
fn items_of_pinned_payloads_have_the_numbers_that_were_given_to_them() {
    for name in ["rows", "columns"] {
        let (header, payload) = header(name);
        let content = Content::of(&requests(&header, &payload, None).unwrap()).unwrap();
        let expected = [
            ("logs", vec![(0, 49), (150, 169)]),
            ("metrics", vec![(100, 149)]),
            ("traces", vec![(50, 99), (170, 174)]),
        ];
        assert_eq!(content.items, expected.into(), "{name}");
    }
}
