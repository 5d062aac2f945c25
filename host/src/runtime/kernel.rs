//! What the kernel lets a process have, added up before it is met.

use std::fs;

use super::{class::Class, host::Room};

/// Mappings of memory of a slot's stack: itself, and a page that guards it.
const OF_A_STACK: usize = 2;

/// Mappings of a slot's memory at most: its image, what of it was written, what it has grown by, and the rest.
const OF_A_MEMORY: usize = 4;

/// Mappings of loaded code: its text, its data, and what lies between.
const OF_A_GUEST: usize = 6;

/// Mappings of everything else: libraries, threads, and the allocator.
const OTHERS: usize = 4_000;

/// Mappings that so many slots of a class take.
pub(super) fn mappings(class: &Class, slots: usize) -> usize {
    let count = |count: u32| usize::try_from(count).unwrap_or(usize::MAX);
    let of_memories = count(class.memories).saturating_mul(OF_A_MEMORY);
    let of_stacks = count(class.stacks()).saturating_mul(OF_A_STACK);
    let each = of_stacks.saturating_add(of_memories).saturating_add(count(class.tables));
    slots.saturating_mul(each)
}

/// Checks that there can be so many mappings for slots.
///
/// # Errors
/// What the limit is, and what to do.
pub(super) fn check(of_slots: usize, room: Room) -> Result<(), String> {
    match fs::read_to_string("/proc/sys/vm/max_map_count") {
        Ok(text) => within(text.trim().parse().unwrap_or(usize::MAX), of_slots, room),
        // Another kernel, which has no such limit.
        Err(_) => Ok(()),
    }
}

fn within(most: usize, of_slots: usize, room: Room) -> Result<(), String> {
    let of_guests = room.guests.saturating_mul(OF_A_GUEST);
    let all = of_slots.saturating_add(of_guests).saturating_add(OTHERS);
    if all <= most {
        return Ok(());
    }
    Err(format!(
        "the kernel lets a process have {most} mappings of memory, and this takes up to {all}: {of_slots} for instances, {of_guests} for loaded guests; raise it with `sysctl -w vm.max_map_count={}`, or lower pool or max-loaded",
        all.next_power_of_two()
    ))
}

#[cfg(test)]
mod tests {
    use super::{super::class::Needs, *};
    use crate::runtime::{Instances, Limits, anatomy::Anatomy};

    #[test]
    fn the_defaults_fit_and_what_does_not_is_explained() {
        let class = |memory| {
            let anatomy = Anatomy { memory, ..Anatomy::default() };
            Needs::of(&anatomy, &Limits::default()).unwrap().class
        };
        let (small, large) = (class(1 << 20), class(8 << 20));
        let slots = |class: &Class| mappings(class, class.slots(Instances::of([None, None])));
        assert!([small, large].iter().all(|class| Class::usual().contains(class)));
        let usual = Class::usual().iter().map(slots).sum();
        // Linux's default.
        assert_eq!(within(65_530, usual, Room::default()), Ok(()));
        let error = within(65_530, mappings(&small, 20_000), Room::default()).unwrap_err();
        for part in ["65530", "vm.max_map_count=262144", "pool", "max-loaded"] {
            assert!(error.contains(part), "{error}");
        }
    }
}
