//! Days and times of PostgreSQL, which counts from the first of January 2000, in the Gregorian
//! calendar.

/// Microseconds of a day.
const DAY: i64 = 24 * 60 * 60 * 1_000_000;

/// Days from 1970 to 2000.
const UNIX_DAYS: i64 = 10_957;

/// Seconds from 1970 to 2000.
pub(super) const UNIX_SECONDS: i64 = UNIX_DAYS * 24 * 60 * 60;

/// Days of 400 years, after which the calendar repeats itself.
const DAYS_OF_ERA: i64 = 146_097;

/// Days before the first of March of the year 0, by which years end with their day that is left out.
const MARCH_YEAR_0: i64 = 719_468 + UNIX_DAYS;

/// A date as year, month and day.
pub(super) type Date = (i32, u8, u8);

/// A time of day as hour, minute, second and nanosecond.
pub(super) type Time = (u8, u8, u8, u32);

/// The date so many days after the first of January 2000.
pub(super) fn date(days: i64) -> Option<Date> {
    let days = days.checked_add(MARCH_YEAR_0)?;
    let (era, day) = (days.div_euclid(DAYS_OF_ERA), days.rem_euclid(DAYS_OF_ERA));
    // Leap days: every 4 years, but not every 100, but every 400.
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    // From March on, months have 31 and 30 days in a pattern of five.
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, next_year) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    let year = i32::try_from(era.checked_mul(400)?.checked_add(year + next_year)?).ok()?;
    Some((year, u8::try_from(month).ok()?, u8::try_from(day).ok()?))
}

/// Days from the first of January 2000 to a date, if there is such a date.
pub(super) fn days(wanted: Date) -> Option<i64> {
    let (year, month, day) = (i64::from(wanted.0), i64::from(wanted.1), i64::from(wanted.2));
    let (month, year) = if month > 2 { (month - 3, year) } else { (month + 9, year - 1) };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * month + 2) / 5 + day - 1;
    let of_era = of_era * 365 + of_era / 4 - of_era / 100 + of_year;
    let days = era * DAYS_OF_ERA + of_era - MARCH_YEAR_0;
    // A day that its month does not have is another's.
    (date(days) == Some(wanted)).then_some(days)
}

/// The time of day so many microseconds after midnight.
pub(super) fn time(micros: i64) -> Option<Time> {
    let (seconds, rest) = (micros.div_euclid(1_000_000), micros.rem_euclid(1_000_000));
    let nanos = u32::try_from(rest).ok()?.checked_mul(1_000)?;
    let hour = u8::try_from(seconds / 3_600).ok()?;
    Some((hour, u8::try_from(seconds / 60 % 60).ok()?, u8::try_from(seconds % 60).ok()?, nanos))
}

/// Microseconds from midnight, if there is such a time.
pub(super) fn micros((hour, minute, second, nanos): Time) -> Option<i64> {
    let valid = hour < 24 && minute < 60 && second < 60 && nanos < 1_000_000_000;
    let seconds = (i64::from(hour) * 60 + i64::from(minute)) * 60 + i64::from(second);
    valid.then_some(seconds * 1_000_000 + i64::from(nanos / 1_000))
}

/// Date and time so many microseconds after the beginning of 2000.
pub(super) fn moment(micros: i64) -> Option<(Date, Time)> {
    Some((date(micros.div_euclid(DAY))?, time(micros.rem_euclid(DAY))?))
}

/// Microseconds from the beginning of 2000.
pub(super) fn since_2000(date: Date, time: Time) -> Option<i64> {
    days(date)?.checked_mul(DAY)?.checked_add(micros(time)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_counted_from_2000() {
        for (date_of, count) in [
            ((2000, 1, 1), 0),
            ((2000, 2, 29), 59),
            ((2000, 3, 1), 60),
            ((1999, 12, 31), -1),
            ((1970, 1, 1), -UNIX_DAYS),
            ((2026, 11, 27), 9_827),
            ((1900, 3, 1), -36_465),
            ((-4712, 1, 1), -2_451_507),
        ] {
            assert_eq!(days(date_of), Some(count), "{date_of:?}");
            assert_eq!(date(count), Some(date_of));
        }
        for missing in
            [(2026, 2, 29), (1900, 2, 29), (2000, 13, 1), (2000, 0, 1), (2000, 4, 31), (2000, 1, 0)]
        {
            assert_eq!(days(missing), None, "{missing:?}");
        }
    }

    #[test]
    fn every_day_of_800_years_has_a_date_of_its_own() {
        let mut before = date(-1).unwrap();
        for count in 0..DAYS_OF_ERA * 2 {
            let this = date(count).unwrap();
            assert!(this > before && days(this) == Some(count), "{count}: {this:?}");
            before = this;
        }
    }

    #[test]
    fn moments_before_2000_are_counted_down() {
        assert_eq!(moment(-1), Some(((1999, 12, 31), (23, 59, 59, 999_999_000))));
        assert_eq!(since_2000((1999, 12, 31), (23, 59, 59, 999_999_999)), Some(-1));
        assert_eq!(since_2000((2000, 1, 2), (0, 0, 1, 0)), Some(DAY + 1_000_000));
        assert_eq!(micros((24, 0, 0, 0)), None);
        assert_eq!(time(DAY), Some((24, 0, 0, 0)), "PostgreSQL has such a time");
    }
}
