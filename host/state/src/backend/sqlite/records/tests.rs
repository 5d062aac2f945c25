//! Runs of records: how they begin, end and expire, with filters, rollbacks and several processes.

use super::*;

const WINDOW: Duration = Duration::from_millis(100);

fn database() -> Database {
    let database = Database::open_in_memory().unwrap();
    database.execute_batch(TABLES).unwrap();
    database
}

fn id(number: i64) -> WriteId {
    // Spread as digests are.
    let spread = u128::from_be_bytes(i128::from(number).to_be_bytes())
        .wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
    WriteId { request: spread.to_be_bytes(), fingerprint: 1, write: 3 }
}

fn records(most: u64, filters: &Filters) -> Records {
    Records::new(WINDOW, most, Arc::clone(filters))
}

/// What one process has: its own filters, and a connection.
struct Process<'a> {
    database: &'a Database,
    records: Records,
}

impl<'a> Process<'a> {
    fn new(database: &'a Database, most: u64) -> Self {
        Self { database, records: records(most, &Filters::default()) }
    }

    fn write(&mut self, number: i64, now: Moment) {
        self.records.open(self.database, now, true).unwrap();
        assert_eq!(self.find(number, now), Found::Nothing, "{number}");
        self.records.record(self.database, &id(number), &Record::Count(number)).unwrap();
    }

    fn find(&self, number: i64, now: Moment) -> Found {
        self.records.find(self.database, &id(number), now).unwrap()
    }

    fn reads(&mut self, number: i64, now: Moment) -> Found {
        self.records.open(self.database, now, false).unwrap();
        self.find(number, now)
    }

    fn sweep(&mut self, now: Moment) {
        while {
            self.records.open(self.database, now, true).unwrap();
            self.records.sweep(self.database, now).unwrap()
        } {}
    }

    fn count(&self, table: &str) -> i64 {
        let count = format!("SELECT count(*) FROM {table}");
        self.database.query_row(&count, [], |row| row.get(0)).unwrap()
    }
}

#[test]
fn records_are_kept_for_their_time_and_removed_soon_after() {
    let database = database();
    let mut process = Process::new(&database, 1_000);
    for now in 0..1_000 {
        process.write(now, now);
        process.sweep(now);
        for past in 0..=now {
            let found = process.find(past, now);
            if now - past < 100 {
                assert_eq!(found, Found::Record(Record::Count(past)), "{past} at {now}");
            } else if now - past > 100 * 9 / 8 {
                assert_eq!(found, Found::Nothing, "{past} at {now}");
            }
        }
        assert!(process.count("tally_write") <= 115, "what has expired is removed");
        assert!(process.count("tally_write_run") <= 11);
        assert_eq!(process.count("tally_write_run") - 1, process.count("tally_write_filter"));
    }
}

#[test]
fn what_has_expired_is_forgotten_though_nobody_has_swept() {
    let database = database();
    let mut process = Process::new(&database, 1_000);
    for now in 0..1_000 {
        process.write(now, now);
    }
    assert_eq!(process.count("tally_write"), 1_000);
    assert_eq!(process.find(870, 999), Found::Nothing);
    assert_eq!(process.find(920, 999), Found::Record(Record::Count(920)));
    process.sweep(999);
    assert!(process.count("tally_write") <= 115);
}

#[test]
fn a_run_ends_when_it_has_many_records() {
    let database = database();
    let mut process = Process::new(&database, 10);
    for number in 0..100 {
        process.write(number, 0);
    }
    assert_eq!(process.count("tally_write_run"), 10);
    for number in 0..100 {
        assert_eq!(process.find(number, 0), Found::Record(Record::Count(number)));
    }
    assert_eq!(process.find(100, 0), Found::Nothing);
    let filtered = process.records.runs.iter().filter(|run| run.filter.is_some()).count();
    assert_eq!(filtered, 9, "each run that has ended is asked through its filter");
}

/// Two processes that write in turn, and begin runs for each other.
#[test]
fn processes_that_share_a_file_find_each_others_records() {
    let database = database();
    let mut two = [Process::new(&database, 10), Process::new(&database, 7)];
    for number in 0..200 {
        let [one, other] = &mut two;
        let (writes, reads) = if number % 3 == 0 { (one, other) } else { (other, one) };
        writes.write(number, number / 10);
        for past in 0..=number {
            let found = reads.reads(past, number / 10);
            assert_eq!(found, Found::Record(Record::Count(past)), "{past} at {number}");
        }
    }
}

/// The same number of run, begun at the same moment, with other records: a filter made in a
/// transaction that was rolled back must not stand for it.
#[test]
fn a_run_that_was_rolled_back_leaves_no_filter() {
    let database = database();
    let mut one = Process::new(&database, 10);
    let mut other = Process::new(&database, 12);
    for number in 0..10 {
        one.write(number, 0);
    }
    database.execute_batch("BEGIN").unwrap();
    one.write(10, 0);
    database.execute_batch("ROLLBACK").unwrap();
    assert_eq!(one.count("tally_write_run"), 1);
    for number in 10..13 {
        other.write(number, 0);
    }
    assert_eq!(other.count("tally_write_run"), 2);
    for number in 0..13 {
        assert_eq!(one.reads(number, 0), Found::Record(Record::Count(number)), "{number}");
    }
}

/// A reader looks at an older state of the file than the writer, and shares its filters.
#[test]
fn connections_of_a_process_share_filters_of_runs_that_have_ended() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("records.db");
    let [writer, reader] = [Database::open(&path).unwrap(), Database::open(&path).unwrap()];
    writer.pragma_update(None, "journal_mode", "wal").unwrap();
    writer.execute_batch(TABLES).unwrap();
    let filters = Filters::default();
    let mut writer = Process { database: &writer, records: records(10, &filters) };
    let mut reader = Process { database: &reader, records: records(10, &filters) };
    for number in 0..10 {
        writer.write(number, 0);
    }
    reader.database.execute_batch("BEGIN").unwrap();
    assert_eq!(reader.reads(9, 0), Found::Record(Record::Count(9)));
    for number in 10..40 {
        writer.write(number, 0);
    }
    assert_eq!(filters.lock().unwrap().len(), 3, "the writer has read those of runs that ended");
    for number in 0..10 {
        assert_eq!(reader.reads(number, 0), Found::Record(Record::Count(number)));
    }
    assert_eq!(reader.reads(10, 0), Found::Nothing, "it is not there yet");
    reader.database.execute_batch("COMMIT").unwrap();
    for number in 0..40 {
        assert_eq!(reader.reads(number, 0), Found::Record(Record::Count(number)));
    }
}

/// A backup is put back while the host runs, and another process goes on from there with other
/// records, until the runs have the same numbers as before.
#[test]
fn a_file_that_was_put_back_has_no_filters_of_its_future() {
    let dir = tempfile::tempdir().unwrap();
    let file = Database::open(dir.path().join("records.db")).unwrap();
    file.execute_batch(TABLES).unwrap();
    let mut one = Process::new(&file, 10);
    let mut other = Process::new(&file, 12);
    for number in 0..15 {
        one.write(number, 0);
    }
    let copy = |table: &str| format!("CREATE TABLE copy_{table} AS SELECT * FROM {table};");
    let back = |table: &str| {
        format!("DELETE FROM {table}; INSERT INTO {table} SELECT * FROM copy_{table};")
    };
    let tables = ["tally_write", "tally_write_run", "tally_write_filter"];
    file.execute_batch(&tables.map(copy).concat()).unwrap();
    for number in 15..25 {
        one.write(number, 1);
    }
    assert_eq!(one.reads(15, 1), Found::Record(Record::Count(15)));
    file.execute_batch(&tables.map(back).concat()).unwrap();
    for number in 100..115 {
        other.write(number, 2);
    }
    assert_eq!(one.count("tally_write_run"), 3);
    for number in 100..115 {
        assert_eq!(one.reads(number, 2), Found::Record(Record::Count(number)), "{number}");
    }
    assert_eq!(one.reads(15, 2), Found::Nothing);
}

#[test]
fn a_clock_that_was_ahead_for_a_while_keeps_nothing_for_ever() {
    let database = database();
    let mut process = Process::new(&database, 1_000);
    for number in 0..10 {
        process.write(number, number);
    }
    process.write(10, 1_000_000);
    for number in 11..1_000 {
        process.write(number, number);
        process.sweep(number);
    }
    assert!(process.count("tally_write") <= 115, "{}", process.count("tally_write"));
    assert_eq!(process.find(990, 999), Found::Record(Record::Count(990)));
}

#[test]
fn a_missing_filter_is_made_by_the_sweep() {
    let database = database();
    let mut process = Process::new(&database, 10);
    for number in 0..35 {
        process.write(number, 0);
    }
    database.execute_batch("DELETE FROM tally_write_filter").unwrap();
    let mut process = Process::new(&database, 10);
    assert_eq!(process.reads(3, 0), Found::Record(Record::Count(3)), "it is looked up without");
    process.sweep(0);
    assert_eq!(process.count("tally_write_filter"), 3);
    assert_eq!(process.reads(3, 0), Found::Record(Record::Count(3)));
    assert!(process.records.runs[..3].iter().all(|run| run.filter.is_some()));
}

#[test]
fn another_request_of_the_name_is_noticed_whatever_it_writes() {
    let database = database();
    let mut process = Process::new(&database, 2);
    for number in 0..5 {
        process.write(number, 0);
    }
    for number in 0..5 {
        let find = |write| process.records.find(&database, &write, 0).unwrap();
        assert_eq!(find(WriteId { write: 4, ..id(number) }), Found::Nothing);
        assert_eq!(find(WriteId { write: 4, fingerprint: 2, ..id(number) }), Found::Reused);
    }
}
