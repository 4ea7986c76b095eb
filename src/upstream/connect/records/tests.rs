use proptest::prelude::*;

use super::*;

fn record(length: u16) -> Vec<u8> {
    let mut record = vec![23, 3, 3];
    record.extend(length.to_be_bytes());
    // This payload looks like headers.
    record.extend([23, 3, 3, 255, 255].iter().cycle().take(length.into()));
    record
}

fn at_boundary(bytes: &[u8]) -> bool {
    let mut records = Records::default();
    records.pass(bytes);
    records.at_boundary()
}

#[test]
fn an_empty_stream_is_at_a_boundary() {
    assert!(at_boundary(&[]));
}

#[test]
fn only_complete_records_end_at_a_boundary() {
    let record = record(300);
    for length in 1..record.len() {
        assert!(!at_boundary(&record[..length]), "{length}");
    }
    assert!(at_boundary(&record));
}

#[test]
fn empty_and_largest_records_are_tracked() {
    let bytes = [record(0), record(u16::MAX), record(0), record(0)].concat();
    assert!(at_boundary(&bytes));
    assert!(!at_boundary(&bytes[..bytes.len() - 1]));
}

proptest! {
    #[test]
    fn splits_make_no_difference(
        lengths in proptest::collection::vec(0_u16..600, 0..6),
        end: prop::sample::Index,
        cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..8),
    ) {
        let records: Vec<_> = lengths.into_iter().map(record).collect();
        let mut boundaries = vec![0];
        for record in &records {
            boundaries.push(boundaries[boundaries.len() - 1] + record.len());
        }
        let bytes = records.concat();
        let end = end.index(bytes.len() + 1);
        let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(end + 1)).collect();
        cuts.sort_unstable();
        let (mut split, mut start) = (Records::default(), 0);
        for cut in cuts.into_iter().chain([end]) {
            split.pass(&bytes[start..cut]);
            start = cut;
        }
        prop_assert_eq!(split.at_boundary(), boundaries.contains(&end));
        prop_assert_eq!(at_boundary(&bytes[..end]), boundaries.contains(&end));
    }
}
