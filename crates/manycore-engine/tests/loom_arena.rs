//! Blocks on their way back to their owner, in every order. Loom watches the
//! bytes of each block: two holders at once, or an owner that writes before a
//! giver's last access is done, end the model. See "The arena" in src/shm/README.md.

mod support;

use manycore_engine::shm::arena::{Allocator, BlockRef, HELD_BY_CALLER};
use std::collections::BTreeSet;
use support::{Blocks, model, process};

/// Everything that can still be cut, as the numbers of the blocks.
fn exhaust(blocks: &Blocks, allocator: &mut Allocator) -> Vec<BlockRef> {
    std::iter::from_fn(|| allocator.allocate(blocks.part(), 1).ok()).inspect(|block| blocks.touch(*block, 1)).collect()
}

fn all_different(held: &[BlockRef]) -> bool {
    held.iter().map(|block| block.number()).collect::<BTreeSet<_>>().len() == held.len()
}

/// Two processes give back while the owner allocates.
#[test]
fn givers_and_the_owner() {
    model(3, || {
        let blocks = Blocks::new(2);
        let mut allocator = Allocator::take_over(blocks.part()).unwrap();
        let held = exhaust(&blocks, &mut allocator);
        assert_eq!(held.len(), 2);
        let givers = [(held[0], 7), (held[1], 8)].map(|(block, value)| {
            process(&blocks, move |blocks| {
                blocks.touch(block, value);
                blocks.part().give_back(block).unwrap();
            })
        });
        let mut again: Vec<_> = allocator.allocate(blocks.part(), 1).into_iter().collect();
        again.iter().for_each(|block| blocks.touch(*block, 2));
        givers.into_iter().for_each(|giver| giver.join().unwrap());
        again.extend(exhaust(&blocks, &mut allocator));
        assert_eq!(again.len(), 2, "a block was lost");
        assert!(all_different(&again));
    });
}

/// Two processes give the same block back, as the caller and a worker about to
/// die may: it comes back once.
#[test]
fn a_block_given_back_twice_comes_back_once() {
    model(3, || {
        let blocks = Blocks::new(2);
        let mut allocator = Allocator::take_over(blocks.part()).unwrap();
        let held = exhaust(&blocks, &mut allocator);
        let givers = [1, 2].map(|_| {
            process(&blocks, {
                let block = held[0];
                move |blocks| blocks.part().give_back(block).unwrap()
            })
        });
        let mut again = exhaust(&blocks, &mut allocator);
        givers.into_iter().for_each(|giver| giver.join().unwrap());
        again.extend(exhaust(&blocks, &mut allocator));
        assert_eq!(again.iter().map(|block| block.number()).collect::<Vec<_>>(), [held[0].number()]);
        blocks.part().give_back(held[0]).unwrap();
        assert!(blocks.part().extent(again[0]).is_ok(), "an old name gave a new use of the block back");
    });
}

/// The owner dies. Another takes its part over while the caller gives back a block
/// it had kept: the kept one comes back once, the orphan is free, none is used twice.
#[test]
fn taking_over_while_a_kept_block_comes_back() {
    model(3, || {
        let blocks = Blocks::new(3);
        let mut dead = Allocator::take_over(blocks.part()).unwrap();
        let held = exhaust(&blocks, &mut dead);
        assert_eq!(held.len(), 3);
        blocks.part().hold(held[0], HELD_BY_CALLER).unwrap();
        blocks.part().give_back(held[1]).unwrap();
        drop(dead);
        let giver = process(&blocks, {
            let kept = held[0];
            move |blocks| {
                blocks.touch(kept, 7);
                blocks.part().give_back(kept).unwrap();
            }
        });
        let mut heir = Allocator::take_over(blocks.part()).unwrap();
        let mut again = exhaust(&blocks, &mut heir);
        assert!(again.len() >= 2, "what the dead had in hand is free");
        giver.join().unwrap();
        again.extend(exhaust(&blocks, &mut heir));
        assert_eq!(again.len(), 3, "the kept block comes back");
        assert!(all_different(&again));
    });
}

/// The owner dies with free blocks and with one in hand, at once with a burial
/// that gives back what the dead held in the caller's part.
#[test]
fn a_burial_and_a_late_return_agree() {
    model(3, || {
        let blocks = Blocks::new(2);
        let mut owner = Allocator::take_over(blocks.part()).unwrap();
        let held = exhaust(&blocks, &mut owner);
        blocks.part().hold(held[0], 5).unwrap();
        let worker = process(&blocks, {
            let block = held[0];
            move |blocks| {
                blocks.touch(block, 7);
                blocks.part().give_back(block).unwrap();
            }
        });
        worker.join().unwrap();
        let burial: Vec<_> = blocks.part().held_by(5).collect();
        burial.iter().for_each(|block| blocks.part().give_back(*block).unwrap());
        let again = exhaust(&blocks, &mut owner);
        assert_eq!(again.len(), 1);
        let free = process(&blocks, {
            let block = held[1];
            move |blocks| blocks.part().give_back(block).unwrap()
        });
        // An allocation meanwhile either finds it or says that there is no room.
        let more = owner.allocate(blocks.part(), 1);
        free.join().unwrap();
        assert_eq!(exhaust(&blocks, &mut owner).len(), usize::from(more.is_err()));
    });
}
