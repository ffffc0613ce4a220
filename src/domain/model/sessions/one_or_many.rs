//! A list that mostly has one element.

use std::{
    fmt, mem,
    ops::{Deref, DerefMut},
    slice,
};

/// A list that stores a single element in place and any other number of them on the heap. It is read as a slice.
#[derive(Clone)]
pub enum OneOrMany<T> {
    /// One element.
    One(T),
    /// Any number of elements.
    Many(Vec<T>),
}

impl<T> OneOrMany<T> {
    /// Appends an element.
    pub fn push(&mut self, element: T) {
        *self = match mem::take(self) {
            Self::Many(elements) if elements.is_empty() => Self::One(element),
            Self::Many(mut elements) => {
                elements.push(element);
                Self::Many(elements)
            }
            Self::One(first) => Self::Many(vec![first, element]),
        };
    }
}

impl<T> Default for OneOrMany<T> {
    fn default() -> Self {
        Self::Many(Vec::new())
    }
}

impl<T> From<Vec<T>> for OneOrMany<T> {
    fn from(mut elements: Vec<T>) -> Self {
        match elements.pop() {
            Some(only) if elements.is_empty() => Self::One(only),
            last => {
                elements.extend(last);
                Self::Many(elements)
            }
        }
    }
}

impl<T> Deref for OneOrMany<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        match self {
            Self::One(element) => slice::from_ref(element),
            Self::Many(elements) => elements,
        }
    }
}

impl<T> DerefMut for OneOrMany<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        match self {
            Self::One(element) => slice::from_mut(element),
            Self::Many(elements) => elements,
        }
    }
}

impl<T: PartialEq> PartialEq for OneOrMany<T> {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl<T: Eq> Eq for OneOrMany<T> {}

impl<T: fmt::Debug> fmt::Debug for OneOrMany<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::sessions::{Session, UserSessions};

    #[test]
    fn a_list_keeps_the_order_of_its_elements() {
        let mut list = OneOrMany::default();
        for number in 0..4 {
            assert_eq!(*list, (0..number).collect::<Vec<_>>());
            assert_eq!(list, OneOrMany::from(list.to_vec()));
            assert_eq!(matches!(list, OneOrMany::One(_)), number == 1);
            list.push(number);
        }
        list[2] = 7;
        assert_eq!(format!("{list:?}"), "[0, 1, 7, 3]");
        assert_eq!(OneOrMany::from(vec![1]), OneOrMany::Many(vec![1]), "however they are stored");
    }

    #[test]
    fn one_session_takes_no_more_room_than_the_session() {
        assert_eq!(size_of::<OneOrMany<Session>>(), size_of::<Session>());
        assert!(size_of::<UserSessions>() <= 184, "{}", size_of::<UserSessions>());
    }
}
