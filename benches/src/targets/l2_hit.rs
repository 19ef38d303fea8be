//! A hit in Redis, beside what a programmer writes by hand.
//!
//! larder runs with its default codec and with JSON, which tells the cost of its machinery apart from that of the codec.

use larder::Codec;

use super::{
    expect_ratio,
    reads::{ByHand, Find, Twice, fill},
};
use crate::{
    Failure,
    entity::{ROWS, all_flights, create_tables},
    measure::{Contest, Effort, Figure, Variant},
    report::{self, Goal},
    servers,
};

const MANY: u64 = 64;
const CROWD: u64 = 256;

/// One task.
pub(crate) async fn latency(effort: Effort) -> Result<(), Failure> {
    let variants = measure(effort, 1).await?;
    let [by_hand, find, find_json] = &variants[..] else {
        return Err("three variants were measured".into());
    };
    report::ratio(
        "l2-hit-1-json",
        find_json.ratio(by_hand, Figure::Latency),
        Goal::None,
    );
    report::ratio(
        "l2-hit-1",
        find.ratio(by_hand, Figure::Latency),
        Goal::AtMost(1.0),
    );
    Ok(())
}

/// Many tasks.
pub(crate) async fn throughput(effort: Effort) -> Result<(), Failure> {
    throughput_of(effort, MANY, 1.15).await
}

/// A crowd of them.
pub(crate) async fn crowd(effort: Effort) -> Result<(), Failure> {
    throughput_of(effort, CROWD, 1.4).await
}

async fn throughput_of(effort: Effort, tasks: u64, goal: f64) -> Result<(), Failure> {
    let variants = measure(effort, tasks).await?;
    let [by_hand, find, find_json] = &variants[..] else {
        return Err("three variants were measured".into());
    };
    let name = format!("l2-hit-{tasks}");
    report::ratio(
        &format!("{name}-json"),
        find_json.ratio(by_hand, Figure::Throughput),
        Goal::None,
    );
    let ratio = find.ratio(by_hand, Figure::Throughput);
    report::ratio(&name, ratio, Goal::AtLeast(goal));
    Ok(())
}

async fn measure(effort: Effort, tasks: u64) -> Result<Vec<Variant>, Failure> {
    let pool = servers::pool(servers::POOL_SIZE).await?;
    create_tables(&pool).await?;
    servers::describe(
        Some(&pool),
        &["larder", "redis", "sqlx", "serde_json", "rmp-serde"],
    )
    .await?;
    let rows = all_flights(&pool).await?;
    let bytes = serde_json::to_vec(&rows[0])?.len();
    println!("  {ROWS} rows of {bytes} bytes as JSON, every read a hit, tasks: {tasks}");

    let by_hand = ByHand::new(&pool).await?;
    let cache = servers::cache("msgpack")?.connect().await?;
    let find = Find::filled(&cache, &pool, ROWS).await?;
    let cache = servers::cache("json")?.codec(Codec::Json).connect().await?;
    let find_json = Find::filled(&cache, &pool, ROWS).await?;
    fill(&by_hand, ROWS).await?;
    let variants = Contest::new(tasks, ROWS)
        .enter("GET + serde_json by hand", by_hand)
        .enter("larder find, MessagePack", find.clone())
        .enter("larder find, JSON", find_json.clone())
        .run(effort)
        .await?;
    find.check_hits()?;
    find_json.check_hits()?;
    report::variants(&variants);
    Ok(variants)
}

/// Two GETs take twice as long as one, and the same work takes as long as itself.
pub(crate) async fn latency_control(effort: Effort) -> Result<(), Failure> {
    let [again, twice] = control(effort, 1, Figure::Latency).await?;
    expect_ratio("the same read, latency", again, 0.97, 1.03)?;
    expect_ratio("two reads to one, latency", twice, 1.9, 2.1)
}

/// As many tasks read half as many rows if each is read twice.
pub(crate) async fn throughput_control(effort: Effort) -> Result<(), Failure> {
    let [again, twice] = control(effort, MANY, Figure::Throughput).await?;
    expect_ratio("the same read, throughput", again, 0.97, 1.03)?;
    expect_ratio("two reads to one, throughput", twice, 0.47, 0.53)
}

async fn control(
    effort: Effort,
    tasks: u64,
    figure: Figure,
) -> Result<[crate::measure::Spread; 2], Failure> {
    let pool = servers::pool(servers::POOL_SIZE).await?;
    create_tables(&pool).await?;
    let by_hand = ByHand::new(&pool).await?;
    fill(&by_hand, ROWS).await?;
    let variants = Contest::new(tasks, ROWS)
        .enter("once", by_hand.clone())
        .enter("once again", by_hand.clone())
        .enter("twice", Twice(by_hand))
        .run(effort)
        .await?;
    report::variants(&variants);
    Ok([1, 2].map(|place| variants[place].ratio(&variants[0], figure)))
}
