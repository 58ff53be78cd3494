"""The gateway under load: devices and attackers as processes, a server that is killed, and every delta counted once."""
