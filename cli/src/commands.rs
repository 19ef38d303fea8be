//! What each command asks, and how its answer is shown.
//!
//! Not here: the live view (`top`).

use std::{collections::BTreeMap, fs, io, time::Duration};

use clap::CommandFactory;
use larder_runtime::{
    Cache, SecretKey,
    protocol::listing::{ALL, ListedAudit, ListedEntity, ListedProcess, Switches},
    tools::{LetterPlace, RawLetter, Severity, Shown, ShownState, ToolDatabase, Tools, escaped},
};
use serde::Serialize;

use crate::{
    args::{Args, Command, LettersCommand, Paused, StoreArgs},
    failure::{Done, Failure},
    print, top,
};

/// Runs a command.
pub(crate) async fn run(args: Args) -> Result<Done, Failure> {
    let Args {
        store,
        json,
        command,
    } = args;
    match command {
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Args::command(), "larder", &mut io::stdout());
            Ok(Done::Well)
        }
        Command::Man => {
            clap_mangen::Man::new(Args::command()).render(&mut io::stdout())?;
            Ok(Done::Well)
        }
        Command::Letters { database, command } => {
            let tools = connect(&store).await?;
            letters(&tools, &database, command, json).await
        }
        command => {
            let tools = connect(&store).await?;
            ask(&tools, command, json).await
        }
    }
}

async fn ask(tools: &Tools, command: Command, json: bool) -> Result<Done, Failure> {
    match command {
        Command::Entities => entities(tools, json).await,
        Command::Show { entity, id } => show(tools, &entity, &id, json).await,
        Command::Find {
            pattern,
            limit,
            scan,
        } => find(tools, &pattern, limit, scan, json).await,
        Command::Drop {
            entity,
            ids,
            tag,
            all,
            yes,
        } => {
            let what = match (tag, all) {
                (Some(tag), _) => Dropped::Tag(tag),
                (None, true) => Dropped::All,
                (None, false) => Dropped::Rows(ids),
            };
            drop_rows(tools, &entity, what, yes, json).await
        }
        Command::Queues { entity, database } => queues(tools, entity, database, json).await,
        Command::Pause { what, entity } => {
            let known = tools.switches().await?;
            let before = known.get(&entity).copied().unwrap_or_default();
            let more = Switches {
                reads: what == Paused::Reads,
                fills: what == Paused::Fills,
            };
            switch(tools, &entity, before.or(more), json).await
        }
        Command::Resume { entity } => switch(tools, &entity, Switches::default(), json).await,
        Command::Doctor => doctor(tools, json).await,
        Command::Audit {
            entities,
            rows,
            per_second,
            every,
        } => loop {
            let done = audit(tools, &entities, rows, per_second, json).await?;
            match every {
                None => return Ok(done),
                Some(seconds) => tokio::time::sleep(Duration::from_secs(seconds)).await,
            }
        },
        Command::Top { every, looks } => {
            let every = Duration::try_from_secs_f64(every)
                .ok()
                .filter(|every| *every >= Duration::from_millis(100));
            let every =
                every.ok_or_else(|| Failure::usage("--every takes at least 0.1 seconds"))?;
            top::run(tools, every, looks, json).await
        }
        Command::Letters { .. } | Command::Completions { .. } | Command::Man => Ok(Done::Well),
    }
}

async fn connect(args: &StoreArgs) -> Result<Tools, Failure> {
    let mut builder = Cache::builder()
        .redis(&args.redis)
        .namespace(&args.namespace)
        .connect_timeout(Duration::from_secs(5))
        .response_timeout(Duration::from_secs(10));
    let read = |path: &std::path::PathBuf| {
        fs::read(path)
            .map_err(|error| Failure::usage(format!("failed to read {}: {error}", path.display())))
    };
    if let Some(path) = &args.secret_keys {
        let text = String::from_utf8(read(path)?).unwrap_or_default();
        let keys = text.lines().filter(|line| !line.trim().is_empty());
        let keys = keys.map(|line| SecretKey::from_hex(line.trim()));
        let keys = keys.collect::<Result<Vec<_>, _>>().map_err(|error| {
            Failure::usage(format!("failed to read {}: {error}", path.display()))
        })?;
        builder = builder.encrypt(keys);
    }
    if let Some(path) = &args.root_certificate {
        builder = builder.root_certificate(read(path)?);
    }
    Ok(Tools::connect(builder).await?)
}

/// Returns the entity with this name: that of its keys, with its namespace before it if that is another one.
async fn entity(tools: &Tools, name: &str) -> Result<ListedEntity, Failure> {
    let mut entities = tools.entities().await?;
    if let Some(entity) = entities.remove(name) {
        return Ok(entity);
    }
    let known: Vec<_> = entities.into_keys().collect();
    Err(Failure::usage(match known.is_empty() {
        true => format!(
            "no entity is listed in the namespace {}; a process lists its entities within five seconds after its first repository \
             was created; is the namespace right?",
            tools.namespace()
        ),
        false => format!("there is no entity {name}; there are {}", known.join(", ")),
    }))
}

#[derive(Serialize)]
struct EntitiesAnswer {
    entities: BTreeMap<String, ListedEntity>,
    processes: BTreeMap<String, ListedProcess>,
    paused: BTreeMap<String, Switches>,
}

async fn entities(tools: &Tools, json: bool) -> Result<Done, Failure> {
    let answer = EntitiesAnswer {
        entities: tools.entities().await?,
        processes: tools.processes().await?,
        paused: tools.switches().await?,
    };
    let is_empty = answer.entities.is_empty();
    if json {
        print::json(&answer)?;
    } else if is_empty {
        print::line(format_args!(
            "no entity is listed in the namespace {}",
            tools.namespace()
        ))?;
    } else {
        let rows: Vec<_> = answer
            .entities
            .iter()
            .map(|(name, entity)| {
                let users = answer.processes.values().filter(|process| {
                    let mut counts = process.entities.iter();
                    counts.any(|counts| counts.entity == entity.entity)
                });
                let paused = [ALL, name]
                    .iter()
                    .filter_map(|name| answer.paused.get(*name))
                    .fold(Switches::default(), |one, other| one.or(*other));
                vec![
                    name.clone(),
                    entity.table.clone(),
                    entity.database.clone(),
                    entity.strategy.clone(),
                    entity.coherence.clone(),
                    entity.codec().map_or_else(
                        || entity.codec.to_string(),
                        |codec| format!("{codec:?}").to_lowercase(),
                    ),
                    print::millis(entity.ttl_ms),
                    entity.id.join("+"),
                    lookups(entity),
                    entity.tags.join(" "),
                    users.count().to_string(),
                    match (paused.reads, paused.fills) {
                        (true, _) => "reads".to_owned(),
                        (false, true) => "fills".to_owned(),
                        (false, false) => String::new(),
                    },
                ]
            })
            .collect();
        let head = [
            "ENTITY",
            "TABLE",
            "DATABASE",
            "STRATEGY",
            "COHERENCE",
            "CODEC",
            "TTL",
            "ID",
            "LOOKUPS",
            "TAGS",
            "PROCESSES",
            "PAUSED",
        ];
        print::table(&head, &rows)?;
        for (id, process) in &answer.processes {
            let id = escaped(id);
            print::line(format_args!(
                "process {id}: {} pid {}, larder {}, up {}: {}",
                escaped(&process.host),
                process.pid,
                escaped(&process.larder),
                print::millis(process.up_ms),
                escaped(&process.health)
            ))?;
        }
    }
    Ok(if is_empty { Done::Found } else { Done::Well })
}

fn lookups(entity: &ListedEntity) -> String {
    let lookups = entity.lookups.iter().map(|lookup| {
        let kind = if lookup.unique { "unique" } else { "index" };
        format!("{kind}({})", lookup.name)
    });
    lookups.collect::<Vec<_>>().join(" ")
}

async fn show(tools: &Tools, name: &str, id: &[String], json: bool) -> Result<Done, Failure> {
    let entity = entity(tools, name).await?;
    let key = tools.key(&entity, id)?;
    let shown = tools.show(&key, Some(&entity)).await?;
    let is_absent = shown.state == ShownState::Absent;
    if json {
        print::json(&shown)?;
    } else {
        print_shown(&shown)?;
    }
    Ok(if is_absent { Done::Found } else { Done::Well })
}

fn print_shown(shown: &Shown) -> Result<(), Failure> {
    print::field("key", &shown.key)?;
    print::field("state", shown.state)?;
    if shown.state == ShownState::Absent {
        return Ok(());
    }
    print::field("bytes", shown.bytes)?;
    let left = shown.ttl_left_ms;
    print::field(
        "lives for",
        left.map_or_else(|| "ever".to_owned(), print::millis),
    )?;
    if let Some(age) = shown.age_ms {
        print::field("age", print::millis(age))?;
    }
    if let Some(token) = &shown.token {
        print::field("token", token)?;
    }
    for process in &shown.processes {
        print::field("process", process)?;
    }
    if let Some(stamp) = shown.stamp {
        print::field("tags as of", stamp)?;
    }
    for why in &shown.unused_because {
        print::field("not used", why)?;
    }
    if let Some(row) = &shown.row {
        let text = serde_json::to_string_pretty(row).map_err(io::Error::from)?;
        print::field("row", "")?;
        for line in text.lines() {
            print::line(escaped(line))?;
        }
    }
    Ok(())
}

#[derive(Serialize)]
struct FoundAnswer {
    keys: Vec<String>,
    scanned: u64,
    is_cut: bool,
}

async fn find(
    tools: &Tools,
    pattern: &str,
    limit: usize,
    scan: u64,
    json: bool,
) -> Result<Done, Failure> {
    let found = tools.find(pattern, limit, scan, print::progress).await;
    print::end_progress();
    let found = found?;
    let answer = FoundAnswer {
        keys: found.keys,
        scanned: found.scanned,
        is_cut: found.is_cut,
    };
    if json {
        print::json(&answer)?;
    } else {
        for key in &answer.keys {
            print::line(key)?;
        }
        if answer.is_cut {
            let note = "there may be more; raise --limit or --scan";
            eprintln!("{note}");
        }
    }
    Ok(if answer.keys.is_empty() {
        Done::Found
    } else {
        Done::Well
    })
}

enum Dropped {
    Rows(Vec<String>),
    Tag(String),
    All,
}

async fn drop_rows(
    tools: &Tools,
    name: &str,
    what: Dropped,
    yes: bool,
    json: bool,
) -> Result<Done, Failure> {
    let entity = entity(tools, name).await?;
    let question = match &what {
        Dropped::Rows(ids) if ids.is_empty() => {
            return Err(Failure::usage("name ids, or use --tag or --all"));
        }
        Dropped::Rows(ids) => format!("Drop {} rows of {name} from the cache?", ids.len()),
        Dropped::Tag(tag) => {
            format!("Drop all rows of {name} with the tag {tag:?} from the cache?")
        }
        Dropped::All => format!("Drop all rows of {name} from the cache?"),
    };
    if !print::confirm(&question, yes)? {
        return Ok(Done::Found);
    }
    let dropped = match what {
        Dropped::Rows(ids) => {
            let keys = ids
                .into_iter()
                .map(|id| tools.key(&entity, &[id]))
                .collect::<Result<Vec<_>, _>>()?;
            tools.drop_rows(&entity, &keys).await?;
            Some(keys.len() as u64)
        }
        Dropped::Tag(tag) => {
            tools.drop_tag(&entity, &tag).await?;
            None
        }
        Dropped::All => tools.drop_all(&entity).await?,
    };
    if json {
        print::json(&serde_json::json!({ "dropped": dropped }))?;
    } else {
        match dropped {
            Some(count) => print::line(format_args!("dropped {count} keys"))?,
            None => print::line("the rows are loaded again when they are read next")?,
        }
    }
    Ok(Done::Well)
}

#[derive(Serialize)]
struct QueueAnswer {
    entity: String,
    #[serde(flatten)]
    partition: larder_runtime::tools::ShownPartition,
    lost: Option<u64>,
}

async fn queues(
    tools: &Tools,
    only: Option<String>,
    database: Option<String>,
    json: bool,
) -> Result<Done, Failure> {
    let entities = match only {
        Some(name) => BTreeMap::from([(name.clone(), entity(tools, &name).await?)]),
        None => tools.entities().await?,
    };
    let database = match database {
        Some(url) => Some(ToolDatabase::connect(&url).await?),
        None => None,
    };
    let mut answers = Vec::new();
    for (name, entity) in &entities {
        let Some(queue) = &entity.queue else { continue };
        let lost = match &database {
            Some(database) => Some(database.lost(&queue.name).await?),
            None => None,
        };
        for partition in tools.queue(entity).await? {
            let lost = lost.as_ref();
            answers.push(QueueAnswer {
                entity: name.clone(),
                lost: lost.map(|lost| lost.get(&partition.partition).copied().unwrap_or(0)),
                partition,
            });
        }
    }
    if json {
        print::json(&answers)?;
    } else if answers.is_empty() {
        print::line("no entity has a queue")?;
    } else {
        let rows: Vec<_> = answers
            .iter()
            .map(|answer| {
                let partition = &answer.partition;
                let some = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
                vec![
                    answer.entity.clone(),
                    partition.partition.to_string(),
                    partition.depth.to_string(),
                    some(partition.oldest_ms.map(print::millis)),
                    partition.accepted.to_string(),
                    some(partition.epoch.map(|epoch| epoch.to_string())),
                    some(answer.lost.map(|lost| lost.to_string())),
                    some(partition.flusher.clone()),
                ]
            })
            .collect();
        let head = [
            "ENTITY",
            "PARTITION",
            "WAITING",
            "OLDEST",
            "ACCEPTED",
            "EPOCH",
            "LOST",
            "FLUSHER",
        ];
        print::table(&head, &rows)?;
    }
    Ok(if answers.is_empty() {
        Done::Found
    } else {
        Done::Well
    })
}

async fn letters(
    tools: &Tools,
    database: &str,
    command: LettersCommand,
    json: bool,
) -> Result<Done, Failure> {
    let database = ToolDatabase::connect(database).await?;
    match command {
        LettersCommand::List { entity, limit } => {
            let queue = queue_of(tools, &entity).await?;
            let letters = database.letters(tools, &queue, limit).await?;
            if json {
                print::json(&letters)?;
            } else {
                let rows: Vec<_> = letters.iter().map(row_of_letter).collect();
                print::table(&["PLACE", "KEY", "WRITE", "ERROR"], &rows)?;
            }
            Ok(if letters.is_empty() {
                Done::Well
            } else {
                Done::Found
            })
        }
        LettersCommand::Show { entity, place } => {
            let place = place_of(&place)?;
            let queue = queue_of(tools, &entity).await?;
            let letters = database.letters(tools, &queue, u32::MAX >> 1).await?;
            let letter = letters.into_iter().find(|letter| letter.place == place);
            let letter = letter.ok_or_else(|| Failure::usage("there is no such letter"))?;
            print::json(&letter)?;
            Ok(Done::Well)
        }
        LettersCommand::Replay { entity, place, yes } => {
            let place = place_of(&place)?;
            let queue = queue_of(tools, &entity).await?;
            let letters = database.letters(tools, &queue, u32::MAX >> 1).await?;
            if letters.iter().all(|letter| letter.place != place) {
                return Err(Failure::usage("there is no such letter"));
            }
            if !print::confirm("Queue the write of the letter again?", yes)? {
                return Ok(Done::Found);
            }
            let Some(replay) = tools.replay(&queue, place, HEARD_WITHIN).await? else {
                return Err(Failure::usage(format!(
                    "no process has replayed it: is one running that has {entity}, and lists itself?"
                )));
            };
            if json {
                print::json(&replay)?;
            } else {
                match &replay.error {
                    Some(error) => print::line(escaped(error))?,
                    None => print::line("queued again")?,
                }
            }
            Ok(match replay.error {
                Some(_) => Done::Found,
                None => Done::Well,
            })
        }
        LettersCommand::Discard { entity, place, yes } => {
            let place = place_of(&place)?;
            let queue = queue_of(tools, &entity).await?;
            let question = "Remove the letter? The write that it holds is lost then.";
            if !print::confirm(question, yes)? {
                return Ok(Done::Found);
            }
            if !database.discard(&queue, place).await? {
                return Err(Failure::usage("there is no such letter"));
            }
            print::line("discarded")?;
            Ok(Done::Well)
        }
    }
}

fn row_of_letter(letter: &RawLetter) -> Vec<String> {
    let LetterPlace {
        partition,
        epoch,
        number,
    } = letter.place;
    let write = if letter.is_deletion { "delete" } else { "save" };
    vec![
        format!("{partition}/{epoch}/{number}"),
        letter.key.clone(),
        write.to_owned(),
        letter.error.clone(),
    ]
}

async fn queue_of(tools: &Tools, name: &str) -> Result<String, Failure> {
    let queue = entity(tools, name).await?.queue;
    let queue = queue.ok_or_else(|| Failure::usage(format!("{name} has no queue")))?;
    Ok(queue.name)
}

fn place_of(text: &str) -> Result<LetterPlace, Failure> {
    let mut parts = text.split('/');
    let place = (|| {
        Some(LetterPlace {
            partition: parts.next()?.parse().ok()?,
            epoch: parts.next()?.parse().ok()?,
            number: parts.next()?.parse().ok()?,
        })
    })();
    let place = place.filter(|_| parts.next().is_none());
    place.ok_or_else(|| {
        Failure::usage(format!(
            "{text:?} is no place of a letter: write partition/epoch/number, as `letters list` does"
        ))
    })
}

async fn switch(
    tools: &Tools,
    name: &str,
    switches: Switches,
    json: bool,
) -> Result<Done, Failure> {
    if name != ALL {
        entity(tools, name).await?;
    }
    tools.switch(name, switches).await?;
    let paused = tools.switches().await?;
    if json {
        print::json(&paused)?;
        return Ok(Done::Well);
    }
    let what = match (switches.reads, switches.fills) {
        (true, _) => "reads are paused",
        (false, true) => "fills are paused",
        (false, false) => "nothing is paused",
    };
    let whose = if name == ALL { "all entities" } else { name };
    print::line(format_args!("{whose}: {what}, within five seconds"))?;
    if let Some(of_all) = paused.get(ALL).filter(|_| name != ALL) {
        let what = if of_all.reads { "reads" } else { "fills" };
        print::line(format_args!("{what} of all entities are still paused"))?;
    }
    Ok(Done::Well)
}

/// How long a process may take to hear of an audit, beside the time that the audit takes.
const HEARD_WITHIN: Duration = Duration::from_secs(30);

async fn audit(
    tools: &Tools,
    only: &[String],
    rows: u64,
    per_second: u32,
    json: bool,
) -> Result<Done, Failure> {
    let mut entities = Vec::new();
    if only.is_empty() {
        let listed = tools.entities().await?;
        entities.extend(listed.into_values().map(|entity| entity.entity));
    }
    for name in only {
        entities.push(entity(tools, name).await?.entity);
    }
    let patience = match per_second {
        0 => Duration::from_secs(600),
        rate => Duration::from_secs(2 * rows / u64::from(rate)),
    };
    let mut audits = Vec::new();
    for name in entities {
        let audit = tools.audit(&name, rows, per_second, HEARD_WITHIN + patience);
        let Some(audit) = audit.await? else {
            return Err(Failure::usage(format!(
                "no process has audited {name}: is one running that has the entity, and lists itself?"
            )));
        };
        if let Some(error) = &audit.error {
            return Err(Failure::usage(error.clone()));
        }
        if !json {
            print_audit(&audit)?;
        }
        audits.push(audit);
    }
    if json {
        print::json(&audits)?;
    }
    let is_right = audits.iter().all(|audit| audit.stale == 0);
    Ok(if is_right { Done::Well } else { Done::Found })
}

#[expect(clippy::cast_precision_loss, reason = "a ratio need not be exact")]
fn print_audit(audit: &ListedAudit) -> Result<(), Failure> {
    let right = match audit.checked {
        0 => "nothing was cached".to_owned(),
        checked => format!(
            "{:.5} % right",
            100.0 * (1.0 - audit.stale as f64 / checked as f64)
        ),
    };
    let entity = escaped(&audit.entity);
    print::line(format_args!(
        "{entity}: {} entries checked, of them {} lists, {} stale, {} just being written: {right}",
        audit.checked, audit.lists, audit.stale, audit.changing
    ))?;
    for entry in &audit.examples {
        let (key, what) = (escaped(&entry.key), escaped(&entry.difference));
        let age = print::millis(entry.age_ms);
        let token = escaped(&entry.token);
        print::line(format_args!(
            "stale: {key} {what}; left {age} ago by {token}"
        ))?;
    }
    Ok(())
}

async fn doctor(tools: &Tools, json: bool) -> Result<Done, Failure> {
    let findings = tools.doctor().await?;
    if json {
        print::json(&findings)?;
    } else {
        for finding in &findings {
            print::line(format_args!(
                "{}  {:16}  {}",
                print::severity(finding.severity),
                finding.about,
                finding.text
            ))?;
        }
    }
    let is_wrong = findings
        .iter()
        .any(|finding| finding.severity == Severity::Error);
    Ok(if is_wrong { Done::Found } else { Done::Well })
}
