use std::io::Read;
use std::time::Instant;
use perigee_shared::segment::columns::{Encoder, decode};
use perigee_shared::signal::Signal;
fn load(path: &str) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    zstd::stream::read::Decoder::new(std::fs::File::open(path).unwrap()).unwrap().read_to_end(&mut all).unwrap();
    let mut out = Vec::new(); let mut i = 0;
    while i < all.len() { let n = u32::from_be_bytes(all[i..i+4].try_into().unwrap()) as usize; out.push(all[i+4..i+4+n].to_vec()); i += 4 + n; }
    out
}
fn recut(signal: Signal, rs: &[Vec<u8>]) -> Vec<Vec<u8>> {
    // split big single request into 512 span requests
    use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest as T;
    use prost::Message;
    if rs.len() > 1 || signal != Signal::Traces { return rs.to_vec(); }
    let t = T::decode(&rs[0][..]).unwrap();
    let mut out = Vec::new(); let mut cur = T::default(); let mut n = 0;
    for r in t.resource_spans { for s in r.scope_spans { for chunk in s.spans.chunks(512) {
        let mut chunk = chunk;
        while !chunk.is_empty() {
            let take = (512 - n).min(chunk.len());
            let mut rr = opentelemetry_proto::tonic::trace::v1::ResourceSpans { resource: r.resource.clone(), scope_spans: vec![], schema_url: r.schema_url.clone() };
            rr.scope_spans.push(opentelemetry_proto::tonic::trace::v1::ScopeSpans { scope: s.scope.clone(), spans: chunk[..take].to_vec(), schema_url: s.schema_url.clone() });
            cur.resource_spans.push(rr); n += take; chunk = &chunk[take..];
            if n == 512 { out.push(cur.encode_to_vec()); cur = T::default(); n = 0; }
        }
    } } }
    if n > 0 { out.push(cur.encode_to_vec()); }
    out
}
fn main() {
    let dir = std::env::args().nth(1).unwrap();
    let kib: usize = std::env::args().nth(2).unwrap().parse().unwrap();
    let only = std::env::args().nth(3);
    for (f, signal) in [("payload-traces", Signal::Traces), ("payload-logs", Signal::Logs), ("payload-metrics", Signal::Metrics), ("hipstershop-oteltraces", Signal::Traces), ("hostandcollector-otelmetrics", Signal::Metrics)] {
        if only.as_ref().is_some_and(|o| o != f) { continue; }
        let reqs = recut(signal, &load(&format!("{dir}/{f}.zst")));
        let items: u64 = reqs.iter().map(|r| perigee_shared::otlp::walk::walk(signal, r).unwrap().items).sum();
        for kept in [false, true] {
        let (mut total, mut enc, mut dec, mut rawt) = (0, 0.0, 0.0, 0);
        let mut cost: std::collections::BTreeMap<String, f64> = Default::default();
        let mut i = 0; let mut base = None; let mut dbase = None; let mut segs=0;
        while i < reqs.len() {
            let mut raw = 0; let mut j = i;
            while j < reqs.len() && raw < kib << 10 { raw += reqs[j].len(); j += 1; }
            let t = Instant::now();
            let mut e = Encoder::new(if kept { base.as_ref() } else { None });
            for r in &reqs[i..j] { e.push(signal, r).unwrap(); }
            let (p, b) = e.finish().unwrap();
            enc += t.elapsed().as_secs_f64();
            let t = Instant::now();
            let (back, db) = decode(if kept { dbase.as_ref() } else { None }, &p, raw as u64).unwrap();
            dec += t.elapsed().as_secs_f64();
            let n: u64 = back.iter().map(|r| perigee_shared::otlp::walk::walk(r.signal, &r.body).unwrap().items).sum();
            let m: u64 = reqs[i..j].iter().map(|r| perigee_shared::otlp::walk::walk(signal, r).unwrap().items).sum();
            assert_eq!(n, m);
            for (k, v) in perigee_shared::segment::columns::inspect(if kept { dbase.as_ref() } else { None }, &p, raw as u64).unwrap() { *cost.entry(k).or_default() += v; }
            base = Some(b); dbase = Some(db); total += p.len(); rawt += raw; i = j; segs+=1;
        }
        println!("{f} {kib} KiB kept={kept}: {:.3} B/item ({segs} segs, {items} items), enc {:.0} MB/s dec {:.0} MB/s", total as f64 / items as f64, rawt as f64 / enc / 1e6, rawt as f64 / dec / 1e6);
        if only.is_some() { let mut c: Vec<_> = cost.into_iter().collect(); c.sort_by(|a,b| b.1.total_cmp(&a.1)); for (k,v) in c.iter().take(24) { println!("     {:>8.3}  {k}", v / items as f64); } }
        }
    }
}
