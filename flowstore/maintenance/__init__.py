"""A store that stays small and sound: deleting, vacuuming, checking, repairing."""
