package servertest_test

import "time"

const second = time.Second
