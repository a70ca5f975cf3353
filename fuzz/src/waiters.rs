//! Waiter tokens that know whether they came back.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;

#[derive(Debug, Default)]
struct Book {
    next: u64,
    open: BTreeSet<u64>,
    lost: usize,
}

/// Gives out tokens and takes them back.
#[derive(Debug, Default)]
pub(crate) struct Waiters(Rc<RefCell<Book>>);

/// What a machine gets: cannot be copied, so it comes back at most once.
#[derive(Debug)]
pub(crate) struct Token {
    number: u64,
    book: Rc<RefCell<Book>>,
    redeemed: bool,
}

impl Waiters {
    pub(crate) fn token(&self) -> Token {
        let mut book = self.0.borrow_mut();
        book.next += 1;
        let number = book.next;
        book.open.insert(number);
        Token {
            number,
            book: Rc::clone(&self.0),
            redeemed: false,
        }
    }

    /// Checks that every token came back.
    pub(crate) fn finish(&self) {
        let book = self.0.borrow();
        assert_eq!(book.lost, 0, "waiters were dropped");
        assert!(
            book.open.is_empty(),
            "{} of {} waiters are still open",
            book.open.len(),
            book.next
        );
    }
}

impl Token {
    pub(crate) fn redeem(mut self) {
        self.redeemed = true;
        self.book.borrow_mut().open.remove(&self.number);
    }
}

impl Drop for Token {
    fn drop(&mut self) {
        if !self.redeemed {
            self.book.borrow_mut().lost += 1;
        }
    }
}
