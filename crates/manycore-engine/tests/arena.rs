//! The arena against a model of it: blocks never overlap, never get lost, and
//! come back to the owner or to its heir.

#![cfg(not(loom))]

use manycore_engine::Kind;
use manycore_engine::shm::arena::{Allocator, BlockRef, HELD_BY_CALLER, Label, Part, PartWords};
use proptest::prelude::*;

const SIZE: u64 = 1 << 16;
const LABELS: usize = 12;

#[derive(Clone, Debug)]
enum Step {
    Allocate(u64),
    /// Gives back the held block with this number, modulo how many there are.
    GiveBack(usize),
    /// Gives back once more what was given back before.
    GiveBackAgain(usize),
    /// The caller takes the block over.
    Keep(usize),
    /// The owner dies, and another takes the part over.
    Inherit,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => prop_oneof![0..600u64, 1_000..9_000u64, 30_000..70_000u64, Just(u64::MAX)].prop_map(Step::Allocate),
        4 => any::<usize>().prop_map(Step::GiveBack),
        1 => any::<usize>().prop_map(Step::GiveBackAgain),
        2 => any::<usize>().prop_map(Step::Keep),
        1 => Just(Step::Inherit),
    ]
}

struct Held {
    block: BlockRef,
    extent: (u64, u64),
    kept: bool,
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn blocks_are_never_shared_and_never_lost(steps in prop::collection::vec(step(), 1..120)) {
        let words = PartWords::default();
        let labels: Vec<Label> = (0..LABELS).map(|_| Label::default()).collect();
        let part = Part::new(3, &words, &labels, SIZE);
        let mut owner = Allocator::take_over(part).unwrap();
        let mut held: Vec<Held> = Vec::new();
        let mut gone: Vec<BlockRef> = Vec::new();
        for step in steps {
            match step {
                Step::Allocate(len) => match owner.allocate(part, len) {
                    Ok(block) => {
                        let extent = part.extent(block).unwrap();
                        prop_assert!(extent.1 >= len && extent.0 + extent.1 <= SIZE);
                        prop_assert_eq!(block.part(), 3);
                        for other in &held {
                            let apart = extent.0 + extent.1 <= other.extent.0
                                || other.extent.0 + other.extent.1 <= extent.0;
                            prop_assert!(apart, "{:?} and {:?}", extent, other.extent);
                        }
                        held.push(Held { block, extent, kept: false });
                    }
                    Err(error) => prop_assert_eq!(error.kind(), Kind::TooLarge),
                },
                Step::GiveBack(at) if !held.is_empty() => {
                    let at = at % held.len();
                    let Held { block, extent, .. } = held.swap_remove(at);
                    part.give_back(block).unwrap();
                    prop_assert!(part.extent(block).is_err(), "a name outlived its use");
                    // The last one given back is the first one used.
                    let again = owner.allocate(part, extent.1).unwrap();
                    prop_assert_eq!(part.extent(again).unwrap(), extent);
                    prop_assert!(again != block);
                    part.give_back(again).unwrap();
                    gone.push(block);
                }
                Step::GiveBackAgain(at) if !gone.is_empty() => part.give_back(gone[at % gone.len()]).unwrap(),
                Step::Keep(at) if !held.is_empty() => {
                    let at = at % held.len();
                    part.hold(held[at].block, HELD_BY_CALLER).unwrap();
                    held[at].kept = true;
                }
                Step::Inherit => {
                    owner = Allocator::take_over(part).unwrap();
                    gone.extend(held.extract_if(.., |held| !held.kept).map(|held| held.block));
                }
                _ => {}
            }
            for held in &held {
                prop_assert_eq!(part.extent(held.block).unwrap(), held.extent);
            }
            let kept = held.iter().filter(|held| held.kept).count();
            prop_assert_eq!(part.held_by(HELD_BY_CALLER).count(), kept);
        }
        // Everything comes back: the largest block can be cut or found as often
        // as the labels and the bytes that were ever cut allow.
        let in_use: Vec<_> = held.drain(..).map(|held| held.block).collect();
        in_use.iter().for_each(|block| part.give_back(*block).unwrap());
        let mut owner = Allocator::take_over(part).unwrap();
        let mut bytes = 0;
        for class in (9..17).rev() {
            while let Ok(block) = owner.allocate(part, 1 << class) {
                bytes += part.extent(block).unwrap().1;
            }
        }
        prop_assert!(bytes <= SIZE && bytes >= in_use.len() as u64 * 512);
    }
}

/// Of large free blocks a warm one is used first, though a cold one was given back later.
#[test]
fn warm_blocks_are_used_before_cold_ones() {
    let words = PartWords::default();
    let labels: Vec<Label> = (0..4).map(|_| Label::default()).collect();
    let part = Part::new(0, &words, &labels, 16 << 20);
    let mut owner = Allocator::take_over(part).unwrap();
    let [warm, cold, other] = [(); 3].map(|()| owner.allocate(part, 2 << 20).unwrap());
    for block in [other, warm, cold] {
        assert_eq!(part.warm_up(block, 2_000_000).unwrap(), None);
        part.set_warm(block, block == warm).unwrap();
        part.give_back(block).unwrap();
    }
    let order = [(); 3].map(|()| owner.allocate(part, 2 << 20).unwrap().number());
    assert_eq!(order, [warm.number(), cold.number(), other.number()]);
    // What is counted is what was in it, the most since it was cold.
    let again = |number: usize| part.held().find(|(block, _)| block.number() == number).unwrap().0;
    assert_eq!(part.warm_up(again(warm.number()), 5_000).unwrap(), Some(489 * 4096));
    assert_eq!(part.warmth(again(warm.number())).unwrap(), 489 * 4096);
    assert_eq!(part.warm_up(again(cold.number()), 5_000).unwrap(), None);
    assert_eq!(part.warmth(again(cold.number())).unwrap(), 2 * 4096);
}
