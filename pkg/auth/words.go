package auth

import (
	"strconv"
	"time"
)

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// span is a duration as a person says it.
func span(d time.Duration) string {
	count := func(n time.Duration, unit string) string {
		if n == 1 {
			return "1 " + unit
		}
		return strconv.FormatInt(int64(n), 10) + " " + unit + "s"
	}
	const day = 24 * time.Hour
	switch {
	case d >= 2*day:
		return count(d/day, "day")
	case d >= 2*time.Hour:
		return count(d/time.Hour, "hour")
	case d >= 2*time.Minute:
		return count(d/time.Minute, "minute")
	case d >= time.Second:
		return count(d/time.Second, "second")
	}
	return "less than a second"
}

// quote shows a claim without letting it fill the screen or move the cursor.
func quote(s string) string {
	if len(s) > 80 {
		s = s[:80] + "…"
	}
	return strconv.QuoteToASCII(s)
}
