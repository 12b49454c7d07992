package client_test

import (
	"fmt"
	"net/http"
	"sync/atomic"
	"testing"

	"github.com/dspool/dspool"
)

func TestStepsOfAnAppGoOnOverBrokenConnections(t *testing.T) {
	t.Parallel()
	var asked atomic.Int64
	c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		n := asked.Add(1)
		fmt.Fprintf(w, "{\"reason\":{\"code\":\"stated\",\"text\":\"step %d\"}}\n\n", n)
		if n == 3 {
			fmt.Fprintln(w, `{"reason":{"code":"app_runs","text":"jupyter runs on lab-1"},"ready":{"machine":"lab-1","address":"192.0.2.1:40001","host_keys":[]}}`)
			return
		}
		fmt.Fprint(w, `{"mess`) // breaks inside a line
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	})
	var got []string
	for st, err := range c.AppSteps(t.Context(), 7) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, st.Reason.Text)
	}
	if fmt.Sprint(got) != "[step 1 step 2 step 3 jupyter runs on lab-1]" {
		t.Errorf("got %q", got)
	}
}

func TestStepsOfAMissingAppEndAtOnce(t *testing.T) {
	t.Parallel()
	c := serve(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotFound) })
	n := 0
	for _, err := range c.AppSteps(t.Context(), 7) {
		if n++; dspool.ErrorCode(err) != dspool.NotFound {
			t.Error(err)
		}
	}
	if n != 1 {
		t.Errorf("%d answers", n)
	}
}
