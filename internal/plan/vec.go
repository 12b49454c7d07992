package plan

import (
	"math"

	"github.com/dspool/dspool"
)

// vec is an amount of resources in whole numbers (cpus in thousandths), so that
// sums and comparisons are exact.
type vec struct{ cpu, mem, gpu int64 }

func toVec(r dspool.Resources) vec {
	return vec{int64(math.Round(r.CPUs * 1000)), r.Memory, int64(r.GPUs)}
}

func (v vec) resources() dspool.Resources {
	return dspool.Resources{CPUs: float64(v.cpu) / 1000, Memory: v.mem, GPUs: int(v.gpu)}
}

// plus returns v and n times o.
func (v vec) plus(o vec, n int64) vec { return vec{v.cpu + n*o.cpu, v.mem + n*o.mem, v.gpu + n*o.gpu} }

// fits says whether v is at most room in every part.
func (v vec) fits(room vec) bool { return v.cpu <= room.cpu && v.mem <= room.mem && v.gpu <= room.gpu }

// count returns how many times v fits into room.
func (v vec) count(room vec) int64 {
	if !v.fits(room) {
		return 0
	}
	n := int64(math.MaxInt64)
	if v.cpu > 0 {
		n = min(n, room.cpu/v.cpu)
	}
	if v.mem > 0 {
		n = min(n, room.mem/v.mem)
	}
	if v.gpu > 0 {
		n = min(n, room.gpu/v.gpu)
	}
	return n
}

// share returns the largest part of whole that v is.
func (v vec) share(whole vec) float64 {
	s := 0.0
	if whole.cpu > 0 {
		s = max(s, float64(v.cpu)/float64(whole.cpu))
	}
	if whole.mem > 0 {
		s = max(s, float64(v.mem)/float64(whole.mem))
	}
	if whole.gpu > 0 {
		s = max(s, float64(v.gpu)/float64(whole.gpu))
	}
	return s
}

func (v vec) upTo(o vec) vec { return vec{max(v.cpu, o.cpu), max(v.mem, o.mem), max(v.gpu, o.gpu)} }
