//! scratch
fn main() -> anyhow::Result<()> {
    if let Some(_code) = survive::programs::run_by_name() { return Ok(()) }
    if std::env::args().nth(1).as_deref() == Some("real") {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let only = std::env::args().nth(2);
        let seed: u64 = std::env::args().nth(3).map_or(1, |s| s.parse().unwrap());
        let rt = tokio::runtime::Runtime::new()?;
        let dir = tempfile::tempdir()?;
        let programs = survive::programs::links(dir.path())?;
        for (name, fault) in survive::process::ALL {
            for side in [survive::Side::Agent, survive::Side::Ground] {
                if !survive::campaign::is_meant(only.as_deref(), name, side) { continue }
                let began = tokio::time::Instant::now();
                match rt.block_on(survive::process::run(programs, name, fault, side, seed)) {
                    Ok(history) => {
                        let v = survive::check(&history);
                        println!("{name} {} {:?} {:?}", side.name(), began.elapsed(), v);
                        if std::env::var("SHOW").is_ok() { history.write(std::fs::File::create(format!("/tmp/hist-{name}-{}.jsonl", side.name()))?)?; }
                    }
                    Err(e) => println!("{name} {} {:?} ERROR {e:#}", side.name(), began.elapsed()),
                }
            }
        }
        return Ok(());
    }
    let mut args = std::env::args().skip(1);
    let seeds: u64 = args.next().map_or(10, |s| s.parse().unwrap());
    let only = args.next();
    let seed: Option<u64> = args.next().map(|s| s.parse().unwrap());
    let mut campaign = survive::Campaign::new()?;
    for (name, kind) in survive::faults::ALL {
        for side in [survive::Side::Agent, survive::Side::Ground] {
            if !survive::campaign::is_meant(only.as_deref(), name, side) { continue }
            if let Some(seed) = seed {
                let history = campaign.fly(name, kind, side, seed);
                history.write(std::io::stdout())?;
                println!("{:?}", survive::check(&history));
                continue;
            }
            let began = tokio::time::Instant::now();
            let row = campaign.row(name, kind, side, 0..seeds);
            println!("{:22} {:6} runs {:4} void {:3} ack {:6} lost {:5} alt {:3} twice {:4} unc {:5} refd {:3}/{:3} stuck {:2} loop {:2} panic {:2} fa {:2} rec {:6} given {:6} {:?} {:?}", row.fault, row.store, row.runs, row.void, row.acknowledged, row.lost, row.altered, row.twice, row.uncounted, row.refused_delivered, row.refused_then_cut, row.stuck, row.crash_loops, row.panics, row.false_alarms, row.recovery_ms_max, row.given_up, began.elapsed(), row.bad_seeds);
        }
    }
    Ok(())
}
