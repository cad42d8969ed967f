package comet

import (
	"context"
	"testing"
	"testing/synctest"
)

func TestQueueIsBoundedAndKeepsOrder(t *testing.T) {
	q := newQueue[int](3)
	for i := range 3 {
		if !q.push(i) {
			t.Fatalf("%d refused", i)
		}
	}
	if q.push(3) {
		t.Error("took one too many")
	}
	got := q.take(context.Background(), nil, 2)
	if len(got) != 2 || got[0] != 0 || got[1] != 1 || !q.push(3) {
		t.Errorf("took %v", got)
	}
	if got = q.take(context.Background(), got, 9); len(got) != 2 || got[0] != 2 || got[1] != 3 {
		t.Errorf("took %v", got)
	}
}

func TestQueueWakesEveryConsumerItNeeds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue[int](10)
		ctx, cancel := context.WithCancel(t.Context())
		taken := make(chan int, 10)
		for range 3 {
			go func() {
				for {
					batch := q.take(ctx, nil, 1)
					if len(batch) == 0 {
						return
					}
					taken <- batch[0]
					<-ctx.Done() // busy with it
				}
			}()
		}
		synctest.Wait()
		for i := range 3 {
			q.push(i)
		}
		synctest.Wait()
		if len(taken) != 3 {
			t.Errorf("%d of 3 consumers woke up", len(taken))
		}
		cancel()
		synctest.Wait()
	})
}
