package control

import (
	"encoding/json"
	"fmt"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/internal/store"
)

const settingDoors = "doors"

// doorsOf reads the doors that the configuration has.
func doorsOf(tx *store.Tx) ([]dspool.Door, error) {
	text, err := tx.Setting(settingDoors)
	if err != nil || text == "" {
		return []dspool.Door{}, err
	}
	var doors []dspool.Door
	if err := json.Unmarshal([]byte(text), &doors); err != nil {
		return nil, fmt.Errorf("read setting %s: %w", settingDoors, err)
	}
	return doors, nil
}

func (w *work) setDoors(doors []dspool.Door) error {
	text, err := json.Marshal(doors)
	if err != nil {
		return err
	}
	w.wake(topicGateway)
	return w.SetSetting(settingDoors, string(text))
}
