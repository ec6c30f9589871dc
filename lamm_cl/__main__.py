from lamm_cl.cli.main import command

command()
