//! Seconds since 1970 as a date that people and other programs read. UTC, pure.

/// `2026-11-23 20:14 UTC`.
pub(crate) fn date(unix_time: u64) -> String {
    let (year, month, day) = day_of(unix_time / 86_400);
    let seconds = unix_time % 86_400;
    format!("{year}-{month:02}-{day:02} {:02}:{:02} UTC", seconds / 3600, seconds / 60 % 60)
}

/// `2026-11-23T20:14:39Z` (RFC 3339).
pub(crate) fn timestamp(unix_time: u64) -> String {
    let (year, month, day) = day_of(unix_time / 86_400);
    let seconds = unix_time % 86_400;
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{year}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// Year, month and day, the last two from 1, of a number of days since 1970.
fn day_of(days: u64) -> (u64, u64, u64) {
    let mut left = days;
    let mut year = 1970;
    while left >= year_days(year) {
        left -= year_days(year);
        year += 1;
    }
    let february = year_days(year) - 337;
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if left < length {
            break;
        }
        left -= length;
        month += 1;
    }
    (year, month, left + 1)
}

fn year_days(year: u64) -> u64 {
    let leaps = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    if leaps { 366 } else { 365 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_counts_leap_days() {
        assert_eq!(date(0), "1970-01-01 00:00 UTC");
        assert_eq!(date(951_782_400), "2000-02-29 00:00 UTC");
        assert_eq!(date(1_735_603_200), "2024-12-31 00:00 UTC");
        assert_eq!(timestamp(1_795_464_879), "2026-11-23T20:14:39Z");
    }
}
